//! The TCP listener's token and address, as files of the home.
//!
//! `api.token` (0600) holds 32 random bytes as base64url, made once; `api.url` says where the
//! running node listens, and is gone while it does not (inventory C-003).

use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meshwire_transport::net::{Net, random};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::api::{ApiError, ErrorKind};
use crate::home::{Home, io_error};

/// Bytes of a token.
const BYTES: usize = 32;

/// What a client has to show on TCP. Its `Debug` says nothing.
#[derive(Clone)]
pub struct Token(Zeroizing<String>);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// The home's token, made if there is none, or if a new one is asked for.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]: `open_permissions` and `bad_api_token` for files that are not as they were
    /// made.
    pub fn of(home: &Home, net: &dyn Net, new: bool) -> Result<Self, ApiError> {
        let path = home.api_token();
        if !new && let Some(token) = Self::read(&path)? {
            return Ok(token);
        }
        let bytes = Zeroizing::new(random::<BYTES>(net));
        let token = Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes.as_slice()));
        let line = Zeroizing::new(format!("{}\n", token.as_str()));
        replace(&path, line.as_bytes()).map_err(|e| io_error(&path, &e))?;
        Ok(Self(token))
    }

    fn read(path: &Path) -> Result<Option<Self>, ApiError> {
        let text = match std::fs::read_to_string(path).map(Zeroizing::new) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error(path, &e)),
        };
        let refused = |code: &str, text: String| Err(ApiError::new(ErrorKind::Io, code, text));
        let mode = path.metadata().map_err(|e| io_error(path, &e))?.permissions().mode();
        if mode & 0o077 != 0 {
            let text = format!("{} can be read by others: run chmod 600 on it", path.display());
            return refused("open_permissions", text);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text.trim()).map(Zeroizing::new);
        if bytes.is_ok_and(|b| b.len() == BYTES) {
            return Ok(Some(Self(Zeroizing::new(text.trim().to_owned()))));
        }
        let text = format!("{} is no token: make a new one with --new-http-token", path.display());
        refused("bad_api_token", text)
    }

    /// Whether `shown` is this token, in a time that says nothing about it.
    #[must_use]
    pub fn is(&self, shown: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(shown).into()
    }
}

/// Where the home's node serves over TCP, if it does; of a node that was killed, where it did.
#[must_use]
pub fn url(home: &Home) -> Option<String> {
    std::fs::read_to_string(home.api_url()).ok().map(|text| text.trim().to_owned())
}

pub(super) fn write_url(home: &Home, port: u16) -> Result<PathBuf, ApiError> {
    let path = home.api_url();
    let line = format!("http://127.0.0.1:{port}\n");
    replace(&path, line.as_bytes()).map_err(|e| io_error(&path, &e))?;
    Ok(path)
}

pub(super) fn remove_url(home: &Home) -> Result<(), ApiError> {
    let path = home.api_url();
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error(&path, &e)),
        _ => Ok(()),
    }
}

/// Writes a file that only its owner can read, in place of what was there, whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut draft = tempfile::Builder::new().prefix(".api").tempfile_in(folder)?;
    draft.write_all(bytes)?;
    draft.as_file().sync_all()?;
    draft.persist(path).map_err(|e| e.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwire_transport::net::OsNet;

    #[test]
    fn a_token_is_made_once_and_replaced_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(&dir.path().join("home")).unwrap();
        let first = Token::of(&home, &OsNet, false).unwrap();
        let text = std::fs::read_to_string(home.api_token()).unwrap();
        assert_eq!((text.len(), text.trim().len()), (44, 43));
        assert!(first.is(text.trim().as_bytes()) && !first.is(text.as_bytes()) && !first.is(b""));
        assert!(!format!("{first:?}").contains(text.trim()));
        let mode = home.api_token().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(Token::of(&home, &OsNet, false).unwrap().is(text.trim().as_bytes()), "it stays");
        assert!(!Token::of(&home, &OsNet, true).unwrap().is(text.trim().as_bytes()), "a new one");
    }

    #[test]
    fn a_token_that_was_tampered_with_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(&dir.path().join("home")).unwrap();
        drop(Token::of(&home, &OsNet, false).unwrap());
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(home.api_token(), open).unwrap();
        assert_eq!(Token::of(&home, &OsNet, false).unwrap_err().code, "open_permissions");
        std::fs::remove_file(home.api_token()).unwrap();
        drop(Token::of(&home, &OsNet, false).unwrap());
        std::fs::write(home.api_token(), "short\n").unwrap();
        assert_eq!(Token::of(&home, &OsNet, false).unwrap_err().code, "bad_api_token");
        drop(Token::of(&home, &OsNet, true).unwrap());
    }
}
