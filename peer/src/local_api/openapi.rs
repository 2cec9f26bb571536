//! The OpenAPI 3.1 document, made from the list of verbs and the types of [`crate::api`].

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;

use super::events::RESUME_HEADER;
use super::send::IDEMPOTENCY_HEADER;
use super::shapes::{
    LaggedEvent, LinkEvent, MisbehaviourEvent, OutboxEvent, PathEvent, PeerEvent, PresenceEvent,
    ReadyEvent, SessionEvent,
};
use super::{OPEN_METRICS, SESSION_HEADER, path};
use crate::agent::verbs;
use crate::api::{self, ApiError, Done, Health, InboxMessage, Version};

/// Stands for the answer of an operation that is a WebSocket.
const WEBSOCKET: &str = "websocket";
/// What happens instead of an answer.
const SWITCHED: &str = "The stream is there: a WebSocket, whose binary messages are its bytes. Text messages are \
                        JSON with a `type`, as in x-messages; the node's first is `stream`.";

/// Collects what the document consists of.
#[derive(Default)]
struct Builder {
    paths: BTreeMap<&'static str, Map<String, Value>>,
    schemas: BTreeMap<String, Value>,
}

/// What one operation is.
struct Operation<'a> {
    name: &'a str,
    summary: &'a str,
    method: &'a str,
    path: &'static str,
    /// Schema and content type of the answer.
    answer: (Value, &'a str),
}

macro_rules! answer {
    ($all:ident, [$each:ident]) => {
        json!({"type": "array", "items": $all.component::<api::$each>()})
    };
    ($all:ident, $one:ident) => {
        $all.component::<api::$one>()
    };
}

macro_rules! operations {
    ($($(#[doc = $doc:literal])* $name:ident($ask:ident) -> $answer:tt,
        $method:ident $path:literal $(, waits $wait:ident)?;)*) => {
        fn verbs(all: &mut Builder) {
            $(
                let answer = (answer!(all, $answer), "application/json");
                let summary = concat!($($doc),*).trim();
                let (name, method) = (stringify!($name), stringify!($method));
                let operation = Operation { name, summary, method, path: $path, answer };
                all.operation::<api::$ask>(operation);
            )*
        }
    };
}
verbs!(operations);

/// The document as text, as it is served and kept in `docs/openapi.json`.
#[must_use]
pub fn document() -> String {
    let mut all = Builder::default();
    verbs(&mut all);
    let json = "application/json";
    let any = (json!({"type": "object"}), json);
    let stream = (json!({"type": "string"}), "text/event-stream");
    let version = (all.component::<Version>(), json);
    let health = (all.component::<Health>(), json);
    let done = (all.component::<Done>(), json);
    let row = all.component::<api::StreamRow>();
    let mut socket = |name, summary, path, ask: fn(&mut Builder, Operation<'_>)| {
        let answer = (row.clone(), WEBSOCKET);
        ask(&mut all, Operation { name, summary, method: "GET", path, answer });
    };
    socket(
        "open_stream",
        "Opens a stream to a peer, as a WebSocket.",
        path::OPEN_STREAM,
        Builder::operation::<api::OpenStream>,
    );
    socket(
        "accept_stream",
        "Waits for a stream that a peer opens, as a WebSocket.",
        path::ACCEPT_STREAM,
        Builder::operation::<api::AcceptStream>,
    );
    let mut own = |name, summary, method, path, answer| {
        all.operation::<Done>(Operation { name, summary, method, path, answer });
    };
    own("openapi", "This document.", "GET", path::OPENAPI, any);
    own("events", "What happens, as it happens.", "GET", path::EVENTS, stream);
    own(
        "version",
        "Which program runs, and which shapes it speaks.",
        "GET",
        path::VERSION,
        version,
    );
    let open_metrics = (json!({"type": "string"}), OPEN_METRICS);
    own(
        "metrics",
        "The node's direct paths in figures, in OpenMetrics text.",
        "GET",
        path::METRICS,
        open_metrics,
    );
    own("health", "Whether the node works.", "GET", path::HEALTH, health);
    own("shutdown", "Ends the node.", "POST", path::SHUTDOWN, done);
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "meshwire: a node's local API",
            "version": super::API.to_string(),
            "description": "HTTP over the home's Unix socket, and over loopback TCP with a token. \
                            See docs/local-api.md.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "http://localhost"}],
        "security": [{}, {"token": []}],
        "paths": all.paths,
        "components": {
            "schemas": all.schemas,
            "securitySchemes": {"token": {
                "type": "http",
                "scheme": "bearer",
                "description": "On TCP: what the file api.token in the node's home holds.",
            }},
        },
    });
    format!("{document:#}\n")
}

impl Builder {
    /// A reference to a type's schema, which joins the components.
    fn component<T: ToSchema>(&mut self) -> Value {
        let mut found: Vec<(String, RefOr<Schema>)> = vec![(T::name().into_owned(), T::schema())];
        T::schemas(&mut found);
        for (name, schema) in found {
            self.schemas.entry(name).or_insert_with(|| json!(schema));
        }
        json!({"$ref": format!("#/components/schemas/{}", T::name())})
    }

    fn operation<Ask: ToSchema>(&mut self, operation: Operation<'_>) {
        let Operation { name, summary, method, path, answer: (schema, media) } = operation;
        let mut entry = json!({
            "operationId": name,
            "summary": summary,
            "parameters": [{
                "name": SESSION_HEADER,
                "in": "header",
                "description": "The token of the session that asks; the home's owner if absent.",
                "schema": {"type": "string"},
            }],
            "responses": {
                "200": {"description": "Done.", "content": {media: {"schema": schema}}},
                "default": {
                    "description": "Refused or failed.",
                    "content": {
                        "application/json": {"schema": self.component::<ApiError>()},
                    },
                },
            },
        });
        if method == "GET" {
            let parameters = query(&json!(Ask::schema()));
            self.component::<Ask>();
            if let Some(all) = entry["parameters"].as_array_mut() {
                all.extend(parameters);
            }
        } else {
            let schema = self.component::<Ask>();
            entry["requestBody"] =
                json!({"required": true, "content": {"application/json": {"schema": schema}}});
        }
        self.detail(name, &mut entry);
        self.paths.entry(path).or_default().insert(method.to_ascii_lowercase(), entry);
    }

    /// What of an operation does not follow from its types.
    fn detail(&mut self, name: &str, entry: &mut Value) {
        let header = |name: &str, about: &str| {
            let schema = json!({"type": "string"});
            json!({"name": name, "in": "header", "description": about, "schema": schema})
        };
        let answer = |about: &str, schema: &Value| {
            let content = json!({"application/json": {"schema": schema}});
            json!({"description": about, "content": content})
        };
        let further = match name {
            "open_stream" | "accept_stream" => {
                entry["responses"]["101"] = json!({"description": SWITCHED});
                if let Some(responses) = entry["responses"].as_object_mut() {
                    responses.remove("200");
                }
                entry["x-messages"] = self.messages();
                return;
            }
            "send" => {
                let message = self.component::<api::Message>();
                let responses = &mut entry["responses"];
                let done = "What was waited for has happened, or an earlier request has done it.";
                responses["200"]["description"] = done.into();
                responses["202"] = answer("It is in the outbox, on its way.", &message);
                let used = "The idempotency key was used before: `code` says for what.";
                responses["409"] = answer(used, &self.component::<ApiError>());
                header(IDEMPOTENCY_HEADER, "Makes a repeated request harmless.")
            }
            "events" => {
                entry["x-events"] = json!({
                    "ready": self.component::<ReadyEvent>(),
                    "message": self.component::<InboxMessage>(),
                    "outbox": self.component::<OutboxEvent>(),
                    "link": self.component::<LinkEvent>(),
                    "presence": self.component::<PresenceEvent>(),
                    "peer": self.component::<PeerEvent>(),
                    "session": self.component::<SessionEvent>(),
                    "path": self.component::<PathEvent>(),
                    "misbehaviour": self.component::<MisbehaviourEvent>(),
                    "lagged": self.component::<LaggedEvent>(),
                });
                header(RESUME_HEADER, "Resumes after the event with this id.")
            }
            "health" => {
                let health = self.component::<Health>();
                entry["responses"]["503"] = answer("The node does not work.", &health);
                return;
            }
            _ => return,
        };
        if let Some(parameters) = entry["parameters"].as_array_mut() {
            parameters.push(further);
        }
    }
}

impl Builder {
    /// What is said on a stream's WebSocket, each way. Binary messages are the stream's bytes.
    fn messages(&mut self) -> Value {
        let nothing = json!({"type": "object"});
        json!({
            "from_node": {
                "stream": self.component::<api::StreamRow>(),
                "progress": self.component::<api::StreamProgress>(),
                "end": nothing,
                "finished": nothing,
                "stopped": self.component::<api::StreamStopped>(),
                "reset": self.component::<api::StreamReset>(),
            },
            "from_client": {
                "end": nothing,
                "stop": self.component::<api::StreamStop>(),
                "reset": self.component::<api::StreamCancel>(),
            },
        })
    }
}

/// A request's fields as parameters of a query.
fn query(schema: &Value) -> Vec<Value> {
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    let fields = schema["properties"].as_object().cloned().unwrap_or_default();
    let parameter = |(name, schema): (String, Value)| {
        let needed = required.iter().any(|r| r.as_str() == Some(&name));
        json!({"name": name, "in": "query", "required": needed, "schema": schema})
    };
    fields.into_iter().map(parameter).collect()
}
