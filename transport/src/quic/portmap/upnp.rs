//! UPnP's Internet gateway device (UPnP Device Architecture 1.1, WANIPConnection 1 and 2): what is said
//! and how it is read, without sockets.
//!
//! ```text
//! M-SEARCH ──▶ LOCATION of a description ──▶ control address of a service ──▶ SOAP calls
//! ```
//!
//! Most home routers speak this and nothing else. All of it is text that anybody in the network may
//! have written: addresses lead to the router itself or nowhere, texts are bounded, and what is
//! not understood is no answer.

use std::net::{Ipv4Addr, SocketAddrV4};

/// Where devices are looked for.
pub(super) const SEARCH_PORT: u16 = 1900;
/// The group that they listen to.
pub(super) const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);
/// Longest answer to a search.
pub(super) const MAX_FOUND: usize = 2048;
/// Longest description or SOAP answer; large ones have some 20 KiB.
pub(super) const MAX_TEXT: usize = 64 << 10;
/// Longest path of an address.
const MAX_PATH: usize = 512;
/// Most services of a router that are tried: PPP and IP connections of one or two lines.
const MAX_SERVICES: usize = 4;
/// The services that forward ports.
const SERVICES: [&str; 3] = [
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
];

/// The question; each kind of gateway is asked for by itself.
pub(super) fn searches() -> [Vec<u8>; 2] {
    [1, 2].map(|version| {
        let text = format!(
            "M-SEARCH * HTTP/1.1\r\nHOST: {GROUP}:{SEARCH_PORT}\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n\
             ST: urn:schemas-upnp-org:device:InternetGatewayDevice:{version}\r\n\r\n"
        );
        text.into_bytes()
    })
}

/// An address at the router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) at: SocketAddrV4,
    pub(super) path: String,
}

impl Place {
    /// Reads `http://ROUTER[:PORT]/PATH`; other hosts and schemes are not taken.
    fn parse(text: &str, router: Ipv4Addr) -> Option<Self> {
        let rest = text.strip_prefix("http://")?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = authority.split_once(':').unwrap_or((authority, "80"));
        let (host, port): (Ipv4Addr, u16) = (host.parse().ok()?, port.parse().ok()?);
        (host == router && port != 0).then_some(())?;
        Some(Self { at: SocketAddrV4::new(host, port), path: clean_path(path)? })
    }

    /// What a control URL in a description at this place means.
    fn join(&self, url: &str) -> Option<Self> {
        if url.contains("://") {
            return Self::parse(url, *self.at.ip());
        }
        Some(Self { at: self.at, path: clean_path(url)? })
    }
}

/// A path with its slash; no more than a request line can carry.
fn clean_path(path: &str) -> Option<String> {
    let path = path.trim_start_matches('/');
    let fine = path.len() < MAX_PATH && path.bytes().all(|b| b.is_ascii_graphic());
    fine.then(|| format!("/{path}"))
}

/// Where the device that answered a search describes itself.
pub(super) fn location(answer: &[u8], router: Ipv4Addr) -> Option<Place> {
    let text = std::str::from_utf8(answer.get(..answer.len().min(MAX_FOUND))?).ok()?;
    let mut lines = text.lines();
    let first = lines.next()?;
    (first.starts_with("HTTP/1.") && first.contains(" 200")).then_some(())?;
    let mut headers = lines.filter_map(|line| line.split_once(':'));
    let (_, value) = headers.find(|(name, _)| name.trim().eq_ignore_ascii_case("location"))?;
    Place::parse(value.trim(), router)
}

/// A service that can be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) place: Place,
    pub(super) kind: &'static str,
}

/// The services in a description that forward ports, in its order.
pub(super) fn services(description: &str, location: &Place) -> Vec<Service> {
    let blocks = description.split("<service>").skip(1);
    let service = |block: &str| {
        let block = block.split("</service>").next()?;
        let named = element(block, "serviceType")?;
        let kind = SERVICES.into_iter().find(|kind| *kind == named)?;
        Some(Service { place: location.join(element(block, "controlURL")?)?, kind })
    };
    blocks.filter_map(service).take(MAX_SERVICES).collect()
}

/// The text of the first element of a name.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0.trim())
}

/// A call of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// The router's own address.
    ExternalAddress,
    /// A port, for so many seconds.
    Add { external: u16, own: Ipv4Addr, internal: u16, seconds: u64 },
    /// No more.
    Delete { external: u16 },
}

impl Call {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ExternalAddress => "GetExternalIPAddress",
            Self::Add { .. } => "AddPortMapping",
            Self::Delete { .. } => "DeletePortMapping",
        }
    }

    /// The SOAP envelope.
    pub(super) fn body(self, service: &Service) -> String {
        let arguments = match self {
            Self::ExternalAddress => String::new(),
            Self::Add { external, own, internal, seconds } => format!(
                "<NewRemoteHost></NewRemoteHost><NewExternalPort>{external}</NewExternalPort>\
                 <NewProtocol>UDP</NewProtocol><NewInternalPort>{internal}</NewInternalPort>\
                 <NewInternalClient>{own}</NewInternalClient><NewEnabled>1</NewEnabled>\
                 <NewPortMappingDescription>meshwire</NewPortMappingDescription>\
                 <NewLeaseDuration>{seconds}</NewLeaseDuration>"
            ),
            Self::Delete { external } => format!(
                "<NewRemoteHost></NewRemoteHost><NewExternalPort>{external}</NewExternalPort>\
                 <NewProtocol>UDP</NewProtocol>"
            ),
        };
        let (name, kind) = (self.name(), service.kind);
        format!(
            "<?xml version=\"1.0\"?>\n<s:Envelope \
             xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body>\
             <u:{name} xmlns:u=\"{kind}\">{arguments}</u:{name}></s:Body></s:Envelope>\r\n"
        )
    }

    /// The header that names the call.
    pub(super) fn action(self, service: &Service) -> String {
        format!("\"{}#{}\"", service.kind, self.name())
    }
}

/// The address in an answer to [`Call::ExternalAddress`].
pub(super) fn external_address(answer: &str) -> Option<Ipv4Addr> {
    element(answer, "NewExternalIPAddress")?.parse().ok()
}

/// Why a call was refused: UPnP's number.
pub(super) fn error_code(answer: &str) -> Option<u16> {
    element(answer, "errorCode")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

    fn found(location: &str) -> Option<Place> {
        let answer = format!("HTTP/1.1 200 OK\r\nST: x\r\nLocation:  {location}\r\n\r\n");
        super::location(answer.as_bytes(), ROUTER)
    }

    fn place(port: u16, path: &str) -> Place {
        Place { at: SocketAddrV4::new(ROUTER, port), path: path.to_owned() }
    }

    #[test]
    fn only_the_router_itself_is_asked() {
        let rows = [
            ("http://192.168.1.1:5000/rootDesc.xml", Some(place(5000, "/rootDesc.xml"))),
            ("http://192.168.1.1", Some(place(80, "/"))),
            ("http://192.168.1.9:5000/x", None),
            ("http://192.168.1.1:0/x", None),
            ("http://192.168.1.1@evil.example/x", None),
            ("http://evil.example/x", None),
            ("https://192.168.1.1/x", None),
            ("http://192.168.1.1/a b", None),
            ("file:///etc/passwd", None),
        ];
        for (text, expected) in rows {
            assert_eq!(found(text), expected, "{text}");
        }
        assert_eq!(location(b"HTTP/1.1 404 No\r\nLocation: http://192.168.1.1/\r\n", ROUTER), None);
        assert_eq!(found(&format!("http://192.168.1.1/{}", "x".repeat(600))), None);
    }

    #[test]
    fn a_description_names_its_services() {
        let service = |kind: &str, url: &str| {
            format!(
                "<service>\n<serviceType>urn:schemas-upnp-org:service:{kind}</serviceType>\
                 <serviceId>x</serviceId><controlURL>{url}</controlURL></service>"
            )
        };
        let text = [
            service("Layer3Forwarding:1", "/l3f"),
            service("WANPPPConnection:1", "ctl/ppp"),
            service("WANIPConnection:1", "http://192.168.1.1:5001/ctl"),
            service("WANIPConnection:1", "http://10.0.0.1/ctl"),
            "<service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1".to_owned(),
        ]
        .concat();
        let expected = [
            Service { place: place(5000, "/ctl/ppp"), kind: SERVICES[2] },
            Service { place: place(5001, "/ctl"), kind: SERVICES[1] },
        ];
        assert_eq!(services(&text, &place(5000, "/d.xml")), expected);
        let many = service("WANIPConnection:1", "/x").repeat(100);
        assert_eq!(services(&many, &place(80, "/")).len(), MAX_SERVICES);
    }

    #[test]
    fn answers_are_read() {
        let answer = "<u:X><NewExternalIPAddress> 203.0.113.7 </NewExternalIPAddress></u:X>";
        assert_eq!(external_address(answer), Some(Ipv4Addr::new(203, 0, 113, 7)));
        assert_eq!(external_address("<NewExternalIPAddress></NewExternalIPAddress>"), None);
        let fault = "<UPnPError><errorCode>718</errorCode></UPnPError>";
        assert_eq!((error_code(fault), error_code(answer)), (Some(718), None));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text: String, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = location(&bytes, ROUTER);
            let _ = found(&text);
            let _ = services(&format!("<service>{text}"), &place(80, "/"));
            let _ = (external_address(&text), error_code(&text));
        }
    }
}
