//! For fuzzers: UPnP's texts, any bytes as an answer to a search, a description or a call.

use std::net::Ipv4Addr;

use super::upnp::{Call, MAX_TEXT, error_code, external_address, location, services};

const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
/// A request's longest line.
const LINE: usize = 1024;

/// Reads `data` as each of them: nobody but the router is asked, and what is asked is short.
///
/// # Panics
/// Where that does not hold.
pub fn upnp(data: &[u8]) {
    let text = String::from_utf8_lossy(data.get(..data.len().min(MAX_TEXT)).unwrap_or_default());
    let at = b"HTTP/1.1 200 OK\r\nLocation: http://192.168.1.1:5000/d.xml\r\n\r\n";
    for place in [location(at, ROUTER), location(data, ROUTER)].into_iter().flatten() {
        assert!(*place.at.ip() == ROUTER && place.at.port() != 0 && place.path.len() <= LINE);
        for service in services(&text, &place) {
            assert!(*service.place.at.ip() == ROUTER && service.place.path.len() <= LINE);
            assert!(service.place.path.bytes().all(|b| b.is_ascii_graphic()), "a header broken up");
            let own = Ipv4Addr::new(192, 168, 1, 2);
            let add = Call::Add { external: 1, own, internal: 1, seconds: 1 };
            for call in [Call::ExternalAddress, add, Call::Delete { external: 1 }] {
                assert!(call.body(&service).len() <= LINE && call.action(&service).len() <= LINE);
            }
        }
    }
    let _ = (external_address(&text), error_code(&text));
}
