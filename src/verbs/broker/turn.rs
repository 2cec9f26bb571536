//! The broker's STUN and TURN server: where it listens, and what members are told of it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use meshwire::turn_desk::Desk;
use meshwire_coord::{Check, Outcome};
use meshwire_transport::net::{Net, random};
use meshwire_transport::url::BaseUrl;
use meshwire_turn::addr_policy::special;
use meshwire_turn::{Cidr, PORT, RelayAddress, Secret, TLS_PORT, TurnError};
use serde::Serialize;

use crate::verbs::turn::places::{self, Places, Relaying, address, ports};

/// Of the process's descriptors, one in four may be an allocation.
const SHARE: usize = 4;

const ANOTHER: &str = "--turn ADDR chooses another place";

/// Where, or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Off,
    /// Port 0 in a text without one.
    At(SocketAddr),
    /// An address, at the usual port.
    Ip(IpAddr),
}

impl Place {
    fn at(self, port: u16) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(addr) => Some(addr),
            Self::Ip(ip) => Some(SocketAddr::new(ip, port)),
        }
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        if let Ok(addr) = text.parse() {
            return Ok(Self::At(addr));
        }
        let ip = address(text, 0).map(|a| Self::Ip(a.ip()));
        ip.ok_or_else(|| format!("{text:?} is neither off nor an address such as 0.0.0.0:{PORT}"))
    }
}

/// What is said of STUN and TURN.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TurnArgs {
    /// STUN and TURN for members, over UDP and TCP [default: port 3478 beside --listen]
    #[arg(long, value_name = "off|ADDR")]
    turn: Option<Place>,
    /// TURN within TLS, by --cert [default: port 5349 beside --turn]
    #[arg(long, value_name = "off|ADDR", requires = "cert")]
    turn_tls: Option<Place>,
    /// This host's address as others know it, behind a one-to-one NAT [default: --public-url's]
    #[arg(long, value_name = "IP")]
    turn_public_ip: Vec<IpAddr>,
    /// Ports that TURN relays from [default: 49152-65535]
    #[arg(long, value_name = "FIRST-LAST", value_parser = ports)]
    turn_ports: Option<RangeInclusive<u16>>,
    /// Private addresses that TURN may relay to, such as 192.168.0.0/16; repeat for more
    #[arg(long, value_name = "CIDR")]
    turn_allow: Vec<Cidr>,
}

/// What the rest of the command line says that matters here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around<'a> {
    pub(super) listen: SocketAddr,
    pub(super) public_url: Option<&'a BaseUrl>,
    pub(super) certificate: Option<(&'a PathBuf, &'a PathBuf)>,
}

/// Whether there is a server, as a broker that starts says it.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Shown {
    On {
        addresses: Vec<String>,
        stun: Vec<String>,
    },
    Off {
        off: String,
        /// Whether it would be on if its place had been free.
        #[serde(skip)]
        taken: bool,
    },
}

impl Shown {
    pub(super) fn lines(&self) -> Vec<String> {
        match self {
            Self::On { addresses, stun } => vec![
                format!("TURN        {}", addresses.join(" ")),
                format!("STUN        {}", stun.join(" ")),
            ],
            Self::Off { off, .. } => vec![format!("TURN        off: {off}")],
        }
    }
}

/// Where to try, best first, or why not at all.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Off(String),
    /// Somewhere here, or the broker does not start.
    Must(Vec<Places>),
    /// Somewhere here, or there is none.
    May(Vec<Places>),
}

impl TurnArgs {
    /// Where to listen. Nobody asked for the usual ports, so that they may be taken: on loopback any
    /// other will do, for members are told; elsewhere it would be one that no firewall lets through.
    fn plan(&self, around: Around<'_>) -> Plan {
        let Around { listen, public_url, certificate } = around;
        let local = listen.ip().is_loopback();
        let usual = |port: u16| if listen.port() == 0 { 0 } else { port };
        let beside = SocketAddr::new(listen.ip(), usual(PORT));
        let (mut places, asked) = match self.turn.map(|t| t.at(PORT)) {
            Some(None) => return Plan::Off("by --turn off".to_owned()),
            Some(Some(main)) => (vec![(main, true), (main, false)], true),
            None if local && public_url.is_some_and(|url| !url.is_loopback()) => {
                let why = "the broker listens on this machine alone; to have it, give --turn ADDR";
                return Plan::Off(why.to_owned());
            }
            None => (vec![(beside, true)], false),
        };
        if !asked {
            let free = SocketAddr::new(listen.ip(), 0);
            places.push(if local { (free, true) } else { (beside, false) });
        }
        let main = places.first().map_or(beside, |p| p.0);
        let usual_tls = SocketAddr::new(main.ip(), usual(TLS_PORT));
        let tls = match (self.turn_tls, certificate) {
            (Some(place), _) => vec![place.at(TLS_PORT)],
            (None, Some(_)) => vec![Some(usual_tls), None],
            (None, None) => vec![None],
        };
        let all = tls.into_iter().flat_map(|tls| {
            let of = move |&(main, behaviour)| Places { main, tls, behaviour };
            places.iter().map(of).collect::<Vec<_>>()
        });
        if asked { Plan::Must(all.collect()) } else { Plan::May(all.collect()) }
    }

    /// Starts the server, if there is to be one.
    ///
    /// # Errors
    /// A place that was asked for and cannot be had; arguments that contradict each other.
    pub(super) async fn start(
        &self,
        net: &Arc<dyn Net>,
        around: Around<'_>,
    ) -> anyhow::Result<(Option<Arc<Desk>>, Shown)> {
        let (places, must) = match self.plan(around) {
            Plan::Off(off) => return Ok((None, Shown::Off { off, taken: false })),
            Plan::Must(places) => (places, true),
            Plan::May(places) => (places, false),
        };
        let main = places.first().map_or(around.listen, |p| p.main);
        let (relay, hosts) = self.relay(main.ip(), around.public_url)?;
        let relaying = Relaying {
            public: self.turn_public_ip.clone(),
            ports: self.turn_ports.clone(),
            allow: self.turn_allow.clone(),
        };
        // A new one each time: what was voided before the start is void after it.
        let secret = Secret::new(random::<32>(&**net));
        let mut config = places::config(secret, relay, &relaying, SHARE);
        if let Some((cert, key)) = around.certificate {
            config.identity = Some(places::identity(cert, key)?);
        }
        match places::first(net, &config, &places).await {
            Ok(server) => {
                let desk = Desk::new(server, &hosts);
                let (addresses, stun) = (desk.addresses().to_vec(), desk.stun().to_vec());
                tracing::info!(turn = addresses.join(" "), "TURN listens");
                Ok((Some(desk), Shown::On { addresses, stun }))
            }
            Err(e @ TurnError::Bind { .. }) if !must => {
                tracing::warn!(error = %e, "there is no TURN; {ANOTHER}");
                Ok((None, Shown::Off { off: format!("{e}; {ANOTHER}"), taken: true }))
            }
            Err(e) => Err(crate::verbs::turn::failed(e)),
        }
    }

    /// What a start would come to. A broker that `runs` on the same data has the ports already.
    pub(super) async fn check(&self, net: &Arc<dyn Net>, around: Around<'_>, runs: bool) -> Check {
        let check = |outcome, found, advice| Check::new("turn", outcome, found, advice);
        let elsewhere = || Some(format!("{ANOTHER}, --turn off does without"));
        match self.start(net, around).await {
            Ok((desk, shown)) => {
                if let Some(desk) = desk {
                    desk.shutdown().await;
                }
                match shown {
                    Shown::On { addresses, .. } => check(Outcome::Ok, addresses.join(" "), None),
                    Shown::Off { off, taken: false } => {
                        check(Outcome::Ok, format!("off: {off}"), None)
                    }
                    Shown::Off { off, taken: true } => check(Outcome::Warn, off, elsewhere()),
                }
            }
            Err(e) if runs => {
                let advice = "nothing, if it is the running broker that has the port";
                check(Outcome::Warn, format!("{e:#}"), Some(advice.to_owned()))
            }
            Err(e) => check(Outcome::Fail, format!("{e:#}"), elsewhere()),
        }
    }

    /// Where it relays from when it listens on `main`, and the hosts that members are told.
    fn relay(
        &self,
        main: IpAddr,
        url: Option<&BaseUrl>,
    ) -> anyhow::Result<(Vec<RelayAddress>, Vec<String>)> {
        let own = places::own();
        let named: Option<IpAddr> = url.and_then(|url| url.host.parse().ok());
        let relay = match (&self.turn_public_ip[..], named) {
            ([], Some(ip)) if !ip.is_loopback() => {
                // The broker may be reached by one family and this one by the other.
                let public = places::relayed(main, &own, &[ip]);
                public.or_else(|_| places::relayed(main, &own, &[]))?
            }
            (public, _) => places::relayed(main, &own, public)?,
        };
        let publics = || relay.iter().map(|r| r.public.to_string()).collect();
        let both = main == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let listens = |ip: IpAddr| both || ip.is_ipv4() == main.is_ipv4();
        let hosts = match url {
            _ if !self.turn_public_ip.is_empty() => publics(),
            // A name for this machine may mean an address that nothing listens on.
            Some(url) if url.is_loopback() && main.is_loopback() => vec![main.to_string()],
            Some(url) if named.is_none_or(listens) => vec![url.host.clone()],
            _ if main.is_unspecified() => publics(),
            _ => vec![main.to_string()],
        };
        let private = relay.iter().find(|r| special(r.public).is_some() && !r.public.is_loopback());
        if let (Some(r), None, Some(url)) = (private, named, url) {
            tracing::info!(
                "TURN relays from {}, which {} may not be for all: behind a NAT give --turn-public-ip",
                r.public,
                url.host
            );
        }
        Ok((relay, hosts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a command line comes to, as `UDP-AND-TCP[+tls TLS][+]` with `+` for the second socket.
    fn plan(turn: &str, tls: Option<&str>, listen: &str, url: &str, certificate: bool) -> String {
        let path = PathBuf::new();
        let url = (!url.is_empty()).then(|| url.parse().unwrap());
        let args = TurnArgs {
            turn: (!turn.is_empty()).then(|| turn.parse().unwrap()),
            turn_tls: tls.map(|t| t.parse().unwrap()),
            turn_public_ip: Vec::new(),
            turn_ports: None,
            turn_allow: Vec::new(),
        };
        let around = Around {
            listen: listen.parse().unwrap(),
            public_url: url.as_ref(),
            certificate: certificate.then_some((&path, &path)),
        };
        let text = |p: &Places| {
            let tls = p.tls.map(|t| format!(" tls {t}")).unwrap_or_default();
            format!("{}{tls}{}", p.main, if p.behaviour { "+" } else { "" })
        };
        let all = |p: &[Places]| p.iter().map(text).collect::<Vec<_>>().join(", ");
        match args.plan(around) {
            Plan::Off(_) => "off".to_owned(),
            Plan::Must(places) => format!("must {}", all(&places)),
            Plan::May(places) => format!("may {}", all(&places)),
        }
    }

    #[test]
    fn it_is_beside_the_broker_unless_said_otherwise() {
        for (turn, listen, url, expected) in [
            ("off", "0.0.0.0:7900", "", "off"),
            // Everywhere: the usual ports or none.
            ("", "0.0.0.0:7900", "https://a.example", "may 0.0.0.0:3478+, 0.0.0.0:3478"),
            ("", "10.0.0.7:443", "", "may 10.0.0.7:3478+, 10.0.0.7:3478"),
            // On loopback, any other as well.
            ("", "127.0.0.1:7900", "", "may 127.0.0.1:3478+, 127.0.0.1:0+"),
            ("", "127.0.0.1:0", "", "may 127.0.0.1:0+, 127.0.0.1:0+"),
            ("", "127.0.0.1:7900", "http://localhost:7900", "may 127.0.0.1:3478+, 127.0.0.1:0+"),
            // Behind a proxy it would be out of reach.
            ("", "127.0.0.1:7900", "https://a.example", "off"),
            ("0.0.0.0", "127.0.0.1:7900", "https://a.example", "must 0.0.0.0:3478+, 0.0.0.0:3478"),
            ("[::]:9", "0.0.0.0:7900", "", "must [::]:9+, [::]:9"),
        ] {
            assert_eq!(plan(turn, None, listen, url, false), expected, "{turn} {listen} {url}");
        }
    }

    #[test]
    fn tls_comes_with_a_certificate() {
        let tls = |turn, tls, certificate| plan(turn, tls, "0.0.0.0:7900", "", certificate);
        assert_eq!(
            tls("", None, true),
            "may 0.0.0.0:3478 tls 0.0.0.0:5349+, 0.0.0.0:3478 tls 0.0.0.0:5349, \
             0.0.0.0:3478+, 0.0.0.0:3478"
        );
        assert_eq!(tls("", Some("off"), true), "may 0.0.0.0:3478+, 0.0.0.0:3478");
        assert_eq!(
            tls("10.0.0.7", Some("10.0.0.7:443"), true),
            "must 10.0.0.7:3478 tls 10.0.0.7:443+, 10.0.0.7:3478 tls 10.0.0.7:443"
        );
    }

    #[test]
    fn a_place_is_off_or_an_address() {
        assert_eq!("off".parse(), Ok(Place::Off));
        assert_eq!("[::1]".parse(), Ok(Place::Ip("::1".parse().unwrap())));
        assert_eq!("10.0.0.7:0".parse(), Ok(Place::At("10.0.0.7:0".parse().unwrap())));
        assert!("on".parse::<Place>().unwrap_err().contains("0.0.0.0:3478"));
    }
}
