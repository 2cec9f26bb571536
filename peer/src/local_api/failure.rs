//! Errors as answers: the error as JSON, with a status that follows from its kind.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::api::{ApiError, ErrorKind};

/// An error answer.
pub(super) struct Failure {
    status: StatusCode,
    error: Box<ApiError>,
}

/// What kinds of errors become.
pub(super) fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Ambiguous | ErrorKind::Exists => StatusCode::CONFLICT,
        ErrorKind::Unreachable => StatusCode::BAD_GATEWAY,
        ErrorKind::Denied => StatusCode::FORBIDDEN,
        ErrorKind::Auth => StatusCode::UNAUTHORIZED,
        ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::Busy => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Io | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl Failure {
    pub(super) fn new(kind: ErrorKind, code: &str, text: impl Into<String>) -> Self {
        ApiError::new(kind, code, text).into()
    }

    pub(super) fn invalid(code: &str, text: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, code, text)
    }

    /// The same error with a status that says more than its kind does.
    pub(super) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self { status: status(error.kind), error: Box::new(error) }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut answer = (self.status, Json(self.error)).into_response();
        let value = match self.status {
            StatusCode::UNAUTHORIZED => (header::WWW_AUTHENTICATE, "Bearer"),
            StatusCode::UPGRADE_REQUIRED => (header::UPGRADE, "websocket"),
            StatusCode::TOO_MANY_REQUESTS => (header::RETRY_AFTER, "1"),
            _ => return answer,
        };
        answer.headers_mut().insert(value.0, header::HeaderValue::from_static(value.1));
        answer
    }
}
