//! How the protocol's own types look in JSON, for the OpenAPI document: they come from a crate that
//! knows nothing of it. Where there is a list of words, it is the type's own.

use std::borrow::Cow;

use meshwire_signaling::Priority as Urgency;
use meshwire_signaling::attest::capability;
use meshwire_signaling::frame::{MessageState as State, Status};
use meshwire_signaling::invite::Role as Member;
use serde_json::{Value, json};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{
    AdditionalProperties, ArrayBuilder, KnownFormat, ObjectBuilder, OneOfBuilder, Schema,
    SchemaFormat, Type,
};
use utoipa::{PartialSchema, ToSchema};

/// Stand-ins for types of other crates, by their names in the document.
macro_rules! stand_ins {
    ($($name:ident: $schema:expr;)*) => {
        $(
            pub(crate) struct $name;

            impl PartialSchema for $name {
                fn schema() -> RefOr<Schema> {
                    $schema.into()
                }
            }

            impl ToSchema for $name {
                fn name() -> Cow<'static, str> {
                    Cow::Borrowed(stringify!($name))
                }
            }
        )*
    };
}

stand_ins! {
    Key: text("Public key: 64 lowercase hex digits.", 64);
    MeshId: text("SHA-256 of the mesh's genesis: 64 lowercase hex digits.", 64);
    MessageId: text("A message's id: a ULID.", 26);
    StreamId: text("A stream's id: 32 lowercase hex digits.", 32);
    Time: ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
        .minimum(Some(0))
        .description(Some("Unix milliseconds."));
    Priority: words(
        "`now` surfaces whatever the recipient does; `next` and `low` when it is idle.",
        Urgency::ALL.map(Urgency::as_str),
    );
    StreamPriority: words(
        "What one side sends on streams of priority `now` goes before that of `next`, which most are, and that before \
         `low`, which keeps a small part. The other side chooses its own.",
        Urgency::ALL.map(Urgency::as_str),
    );
    Doing: words(
        "What an identity is doing; anything but `idle` lets only priority `now` surface.",
        Status::ALL.map(Status::as_str),
    );
    Role: words("What a member may do.", [Member::Member, Member::Admin, Member::Owner].map(Member::as_str));
    MessageState: words(
        "Where a message stands: `delivered` is said only on the recipient's own receipt.",
        [State::Queued, State::Relayed, State::Sent, State::Delivered, State::Expired, State::Failed]
            .map(State::as_str),
    );
    Capabilities: capabilities();
    Profile: ["avatar", "title", "bio"]
        .into_iter()
        .fold(ObjectBuilder::new(), |o, field| {
            o.property(field, ObjectBuilder::new().schema_type(Type::String))
        })
        .additional_properties(Some(AdditionalProperties::FreeForm(false)))
        .description(Some("Who somebody is, for people."));
}

fn text(description: &str, length: usize) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(length))
        .max_length(Some(length))
        .description(Some(description))
}

fn words<const N: usize>(description: &str, words: [&str; N]) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(words.map(Value::from)))
        .description(Some(description))
}

fn capabilities() -> OneOfBuilder {
    let words: Vec<&str> = capability::ALL.to_vec();
    let about =
        format!("Words of a later version may be among them; known are {}.", words.join(", "));
    let list = ArrayBuilder::new()
        .items(ObjectBuilder::new().schema_type(Type::String))
        .description(Some(about));
    OneOfBuilder::new()
        .item(ObjectBuilder::new().schema_type(Type::String).enum_values(Some([json!("all")])))
        .item(ObjectBuilder::new().property("list", list).required("list"))
        .description(Some("What a session or service may do: `all`, or only what is listed."))
}
