//! The certificate, and the address that others are told.

use meshwire_signaling::UnixMillis;
use meshwire_transport::url::BaseUrl;
use rustls::client::verify_server_name;
use rustls::server::ParsedCertificate;
use rustls_pki_types::{CertificateDer, ServerName};

use super::{Check, dates};
use crate::config::{BrokerConfig, Tls};
use crate::serve::check_public_url;
use crate::tls::{self, CERT_FILE, Identity, TLS_KEY_FILE};

const NAME: &str = "certificate";
const URL: &str = "url";
/// Renewals that work are done by then: the usual ones come 30 days before the end.
const SOON_DAYS: u64 = 14;
const DAY: u64 = 86_400;

/// The certificate that this configuration serves, if it serves one now.
pub(super) fn check(now: UnixMillis, config: &BrokerConfig) -> (Check, Option<Identity>) {
    match &config.tls {
        Tls::BehindProxy => (Check::ok(NAME, "none: a proxy ends TLS"), None),
        Tls::Auto if config.listen.ip().is_loopback() => {
            (Check::ok(NAME, "none: plain HTTP on loopback"), None)
        }
        Tls::Auto => {
            let (cert, key) = (config.data.join(CERT_FILE), config.data.join(TLS_KEY_FILE));
            if !cert.exists() && !key.exists() {
                return (Check::ok(NAME, "made at the first start, and pinned"), None);
            }
            if !cert.exists() || !key.exists() {
                let found = format!("only one of {CERT_FILE} and {TLS_KEY_FILE} is there");
                let advice = "restore both from a backup: the start makes a new pair, and \
                              members pin the old one";
                return (Check::fail(NAME, found, advice), None);
            }
            match tls::load(&cert, &key) {
                // Clients look at its key alone, so its dates do not matter.
                Ok(identity) => (Check::ok(NAME, "self-signed, pinned by members"), Some(identity)),
                Err(e) => {
                    let advice = "restore tls.crt and tls.key from a backup: members pin them";
                    (Check::fail(NAME, e.to_string(), advice), None)
                }
            }
        }
        Tls::Files { cert, key } => match tls::load(cert, key) {
            Err(e) => {
                let advice = "--cert wants the chain and --key its own private key, both as PEM";
                (Check::fail(NAME, e.to_string(), advice), None)
            }
            Ok(identity) => (in_time(now / 1_000, identity.first()), Some(identity)),
        },
    }
}

/// Whether a certificate is valid at a Unix time in seconds.
fn in_time(now: u64, cert: &CertificateDer<'_>) -> Check {
    let Some((from, until)) = dates::validity(cert) else {
        let advice = "make sure that it is an X.509 certificate in PEM";
        return Check::fail(NAME, "its dates cannot be read", advice);
    };
    if now < from {
        let found = format!("not valid yet, for {} h", (from - now).div_ceil(3_600));
        return Check::fail(NAME, found, "set this machine's clock, or get another certificate");
    }
    if now > until {
        let found = format!("over since {} days", (now - until) / DAY);
        return Check::fail(NAME, found, "renew it and restart the broker");
    }
    let days = (until - now) / DAY;
    let found = format!("valid for {days} more days; its key fits");
    if days < SOON_DAYS {
        return Check::warn(NAME, found, "renew it and restart the broker");
    }
    Check::ok(NAME, found)
}

/// Whether the address that others are told fits.
pub(super) fn url(config: &BrokerConfig, identity: Option<&Identity>) -> Check {
    let Some(url) = config.public_url.as_deref() else {
        let found = "none given: others are told the address it listens on";
        return if config.tls == Tls::BehindProxy {
            Check::warn(URL, found, "name the proxy's address with --public-url https://…")
        } else if config.listen.ip().is_unspecified() {
            Check::warn(URL, found, "name an address that others reach with --public-url https://…")
        } else {
            Check::ok(URL, found)
        };
    };
    let loopback = config.tls == Tls::Auto && config.listen.ip().is_loopback();
    let scheme = if loopback { "http" } else { "https" };
    if let Err(e) = check_public_url(Some(url), scheme, &config.tls) {
        return Check::fail(URL, e.to_string(), format!("--public-url {scheme}://…"));
    }
    let base: BaseUrl = match url.parse() {
        Ok(base) => base,
        Err(e) => return Check::fail(URL, format!("{e}"), "such as https://broker.example"),
    };
    if let (Tls::Files { .. }, Some(identity)) = (&config.tls, identity)
        && !names(identity.first(), &base.host)
    {
        let found = format!("the certificate does not name {}", base.host);
        let advice = "get a certificate for that name, or give the name that it has";
        return Check::fail(URL, found, advice);
    }
    if config.tls == Tls::BehindProxy && !base.tls {
        let advice = "let the proxy speak TLS; without it others see who writes to whom";
        return Check::warn(URL, format!("{url} is not encrypted"), advice);
    }
    Check::ok(URL, url)
}

/// Whether a certificate is one for a host.
fn names(cert: &CertificateDer<'_>, host: &str) -> bool {
    let Ok(name) = ServerName::try_from(host) else { return false };
    ParsedCertificate::try_from(cert).is_ok_and(|cert| verify_server_name(&cert, &name).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Outcome;

    #[test]
    fn a_certificate_is_good_between_its_dates_and_names_its_hosts() {
        let made = rcgen::generate_simple_self_signed(["broker.example".to_owned()]).unwrap();
        let cert = made.cert.der();
        let (from, until) = dates::validity(cert).unwrap();
        let at = |now: u64| in_time(now, cert).outcome;
        assert_eq!([at(from - 1), at(until + 1)], [Outcome::Fail; 2]);
        assert_eq!((at(from), at(until - 13 * DAY)), (Outcome::Ok, Outcome::Warn));
        assert!(names(cert, "broker.example"));
        assert!(!names(cert, "other.example") && !names(cert, ""));
    }
}
