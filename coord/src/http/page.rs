//! The page behind an invite's URL, for people who open it in a browser. It has no script, so the
//! secret in the fragment stays in the address bar.

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use meshwire_signaling::invite::Capability;

use super::Shared;
use super::invites::{ended, load};

pub(super) async fn invite(State(inner): Shared, Path(invite): Path<String>) -> Response {
    let loaded = match invite.parse() {
        Ok(key) => load(&inner, &key).await.ok(),
        Err(_) => None,
    };
    let Some((row, chain, capability)) = loaded else {
        return page(
            StatusCode::NOT_FOUND,
            "No such invite",
            "<p>This broker has no such invite.</p>",
        );
    };
    if let Some(error) = ended(&row, inner.net.unix_ms()) {
        let text = format!("<p>{}.</p>", escape(&error.message));
        return page(StatusCode::GONE, "This invite is over", &text);
    }
    let (Ok(issuer), Ok(terms)) = (chain.verify(&row.mesh), capability.peek::<Capability>()) else {
        return page(StatusCode::NOT_FOUND, "No such invite", "<p>This invite is damaged.</p>");
    };
    let body = format!(
        "<p><strong>{}</strong> invites you to the mesh <strong>{}</strong> as {}.</p>\
         <p>On the machine that should join, run</p>\
         <pre>meshwire join '<em>the whole address of this page, with all that follows #</em>'</pre>\
         <p>The part behind # is a secret for you alone: this page cannot read it and the server \
         never receives it.</p>",
        escape(&issuer.name),
        escape(&issuer.mesh_name),
        terms.role.as_str(),
    );
    page(StatusCode::OK, "You are invited", &body)
}

fn page(status: StatusCode, title: &str, body: &str) -> Response {
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title} · meshwire</title>\
         <style>body{{font:1.1rem/1.6 system-ui,sans-serif;max-width:40rem;margin:4rem auto;\
         padding:0 1rem;color:#1c2733;background:#fbfbf9}}h1{{font-size:1.6rem}}\
         pre{{background:#eef0ec;padding:1rem;border-radius:.4rem;white-space:pre-wrap}}</style>\
         </head><body><h1>{title}</h1>{body}</body></html>"
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, html).into_response()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
