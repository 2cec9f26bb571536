//! `meshwire netcheck`

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use meshwire_peer::api::{ApiError, ErrorKind};
use meshwire_peer::doctor::{self, MeshBroker};
use meshwire_transport::http::broker_info;
use meshwire_transport::net::Net;
use meshwire_transport::netcheck::{
    Broker, Facts, Family, MAX_SERVERS, PathMtu, PortMapping, Reach, Relay, STUN_PORT, Udp,
    Verdict, ask_router, judge, measure, probe_all, proxies,
};
use meshwire_transport::quic::interfaces::default_router;
use meshwire_transport::url::BaseUrl;
use serde::Serialize;
use tokio::time::timeout;

use crate::context::Context;
use crate::exit::Exit;
use crate::output::{Table, clean, wrap};

/// How long a broker may take to say where its STUN servers are, and they to be found.
const TELLS: Duration = Duration::from_secs(3);
/// Most brokers that are asked: who is in more meshes names one.
const MAX_BROKERS: usize = 8;

/// Find out what this network lets through, and what to expect of direct paths
///
/// Asks STUN servers how the NAT and firewalls here treat UDP (RFC 5780), how large packets may be,
/// whether the router forwards ports, and how far away the broker is. The servers are those that the
/// brokers of this home's meshes run, unless others are named. Takes up to fifteen seconds. Ends with exit code 1 if nothing gets through.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire netcheck\n  \
    meshwire netcheck --broker https://broker.example\n  \
    meshwire netcheck --server stun.example:3478 --json")]
pub(crate) struct Args {
    /// A broker instead of those of this home's meshes
    #[arg(long, value_name = "URL")]
    broker: Option<BaseUrl>,
    /// A STUN server instead of the brokers'; may be given several times
    #[arg(long, value_name = "HOST:PORT")]
    server: Vec<Server>,
}

/// A STUN server's name or address, and its port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Server {
    host: String,
    port: u16,
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no server: it looks like stun.example:3478");
        let unbracketed = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let (host, port) = match unbracketed {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or_else(wrong)?)),
            // IPv6 without brackets has no port.
            None if text.matches(':').count() > 1 => (text, None),
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Ok(STUN_PORT), |port| port.parse().map_err(|_| wrong()))?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        if host.is_empty() || host.len() > 253 || port == 0 || !host.chars().all(plain) {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    facts: &'a Facts,
    verdict: &'a Verdict,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    let brokers = brokers(cx, args.broker.as_ref()).await?;
    if brokers.is_empty() && args.server.is_empty() {
        let text = "there is nobody to ask: this home is in no mesh, and neither a broker (--broker \
                    URL) nor a STUN server (--server HOST:PORT) is named";
        return Err(ApiError::new(ErrorKind::NotFound, "nobody_to_ask", text).into());
    }
    let progress = cx.progress("asking what gets through");
    let servers = servers(&*cx.net, &args.server, &brokers).await?;
    let mut facts = Facts { servers, ..Facts::default() };
    facts.proxies = proxies(|name| std::env::var(name).ok());
    let relays = join_all(brokers.iter().map(|broker| measure(&*cx.net, broker)));
    // What is on this machine is reached without the router.
    let beyond = facts.servers.iter().any(|s| !s.ip().is_loopback());
    let mapping = async {
        match beyond {
            true => ask_router(Arc::clone(&cx.net), default_router().await).await,
            false => PortMapping::NotTried,
        }
    };
    let probing = probe_all(&*cx.net, &facts.servers);
    let ((v4, v6), relays, mapping) = tokio::join!(probing, relays, mapping);
    (facts.v4, facts.v6, facts.relays, facts.port_mapping) = (v4, v6, relays, mapping);
    drop(progress);
    let verdict = judge(&facts);
    let report = Report { facts: &facts, verdict: &verdict };
    cx.out.show(&report, || describe(&facts, &verdict, cx.out.width()))?;
    Ok(if verdict.reach == Reach::Nothing { Exit::Failed } else { Exit::Ok })
}

/// The broker that was named, with the key that the home knows of it; else the home's.
async fn brokers(cx: &Context, named: Option<&BaseUrl>) -> anyhow::Result<Vec<Broker>> {
    let known = match cx.home_path() {
        Ok(home) => doctor::brokers(&home, cx.mesh.as_deref()).await,
        Err(e) if named.is_none() => return Err(e),
        Err(_) => Vec::new(),
    };
    let known = known
        .into_iter()
        .filter_map(|MeshBroker { url, pin, .. }| Some(Broker { url: url.parse().ok()?, pin }));
    let mut all: Vec<Broker> = Vec::new();
    for broker in known {
        if !all.iter().any(|b| b.url == broker.url) {
            all.push(broker);
        }
    }
    if let Some(url) = named {
        let pin = all.iter().find(|b| b.url == *url).and_then(|b| b.pin);
        return Ok(vec![Broker { url: url.clone(), pin }]);
    }
    all.truncate(MAX_BROKERS);
    Ok(all)
}

/// The addresses of the STUN servers that were named, who must have some, else of the brokers'.
async fn servers(
    net: &dyn Net,
    named: &[Server],
    brokers: &[Broker],
) -> anyhow::Result<Vec<SocketAddr>> {
    let mut all = Vec::new();
    for Server { host, port } in named {
        let found = net.resolve(host, *port).await.map_err(|e| {
            let text = format!("{host} has no address: {e}");
            ApiError::new(ErrorKind::Unreachable, "no_address", text)
        })?;
        all.extend(found);
    }
    if named.is_empty() {
        all.extend(join_all(brokers.iter().map(|b| told(net, b))).await.into_iter().flatten());
    }
    Ok(all)
}

/// The addresses of the STUN servers that a broker's members are told. Of a broker that says nothing, its own
/// host's: whether it is there at all, its line says.
async fn told(net: &dyn Net, broker: &Broker) -> Vec<SocketAddr> {
    let info = timeout(TELLS, broker_info(net, &broker.url, broker.pin)).await;
    let stun = info.ok().and_then(Result::ok).and_then(|info| info.stun);
    let stun = stun.map_or_else(
        || vec![Server { host: broker.url.host.clone(), port: STUN_PORT }],
        |told| told.iter().take(MAX_SERVERS).filter_map(|text| text.parse().ok()).collect(),
    );
    let found = stun.iter().map(|s| timeout(TELLS, net.resolve(&s.host, s.port)));
    join_all(found).await.into_iter().flatten().flatten().flatten().collect()
}

fn describe(facts: &Facts, verdict: &Verdict, columns: Option<usize>) -> String {
    let table = Table::new(["CHECK", "FOUND"], rows(facts));
    let mut text = table.render(columns);
    for said in std::iter::once(&verdict.summary).chain(&verdict.notes) {
        let said = clean(said);
        let said = columns.map_or_else(|| said.clone(), |columns| wrap(&said, columns, 2, 2));
        text.push_str(&format!("\n→ {said}"));
    }
    text
}

fn rows(facts: &Facts) -> Vec<[String; 2]> {
    let mut rows = Vec::new();
    for (name, family) in [("IPv4", &facts.v4), ("IPv6", &facts.v6)] {
        rows.extend(family_rows(family).map(|(what, found)| [format!("{name} {what}"), found]));
    }
    rows.push(["port mapping".to_owned(), port_mapping(&facts.port_mapping)]);
    let proxies = facts.proxies.iter().map(|p| format!("{}={}", p.name, p.value));
    let proxies = proxies.collect::<Vec<_>>().join(", ");
    rows.push(["proxy".to_owned(), if proxies.is_empty() { "none".to_owned() } else { proxies }]);
    rows.extend(facts.relays.iter().map(|r| ["relay".to_owned(), relay(r)]));
    rows
}

fn family_rows(family: &Family) -> impl Iterator<Item = (&'static str, String)> + use<> {
    let udp = match (&family.udp, family.server) {
        (Udp::NoServer, _) => "not tested: no STUN server with such an address is known".to_owned(),
        (Udp::NoRoute(why), _) => format!("not to be had here: {why}"),
        (Udp::Answered, Some(server)) => match family.rtt {
            Some(rtt) => format!("{server} answers in {}", ms(rtt)),
            None => format!("{server} answers"),
        },
        _ => "no answer".to_owned(),
    };
    let answered = family.answered();
    let address = match (family.local, family.mapped, family.translated) {
        (Some(local), Some(mapped), Some(true)) => format!("{mapped} outside, {local} here"),
        (_, Some(mapped), Some(false)) => format!("{mapped}, no NAT"),
        (_, Some(mapped), _) => mapped.to_string(),
        _ => "not known".to_owned(),
    };
    let hairpin = match (family.hairpin, family.translated) {
        (Some(true), _) => "yes",
        (Some(false), _) => "no",
        (None, Some(false)) => "not needed",
        (None, _) => "not known",
    };
    let mapping = match family.translated {
        Some(false) => "no NAT".to_owned(),
        _ => family.mapping.words(),
    };
    let rows = [
        ("UDP", Some(udp)),
        ("address", answered.then_some(address)),
        ("mapping", answered.then_some(mapping)),
        ("filtering", answered.then(|| family.filtering.words())),
        ("hairpin", answered.then(|| hairpin.to_owned())),
        ("MTU", answered.then(|| mtu(family.mtu))),
    ];
    rows.into_iter().filter_map(|(what, found)| Some((what, found?)))
}

fn mtu(mtu: PathMtu) -> String {
    match mtu {
        PathMtu::NotMeasured => "not measured".to_owned(),
        PathMtu::AtLeast(bytes) => format!("{bytes} bytes, perhaps more"),
        PathMtu::Measured(bytes) => format!("{bytes} bytes"),
        PathMtu::Below(bytes) => format!("less than {bytes} bytes, which is too little for QUIC"),
    }
}

fn port_mapping(mapping: &PortMapping) -> String {
    match mapping {
        PortMapping::NotTried => "not tried".to_owned(),
        PortMapping::NoRouter => "no router to ask is known".to_owned(),
        PortMapping::Silent { router } => format!("{router} does not answer"),
        PortMapping::Refused { router, reason } => format!("{router} refuses: {reason}"),
        PortMapping::Mapped { router, protocol, external } => {
            format!("{external}, by {protocol} from {router}")
        }
    }
}

fn relay(relay: &Relay) -> String {
    match (relay.rtt, &relay.error) {
        (Some(rtt), _) => format!("{} answers in {}", relay.url, ms(rtt)),
        (None, error) => error.clone().unwrap_or_else(|| format!("{}: no answer", relay.url)),
    }
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_names_or_addresses_with_or_without_a_port() {
        let rows = [
            ("stun.example", Some(("stun.example", 3478))),
            ("stun.example:53", Some(("stun.example", 53))),
            ("192.0.2.1:1", Some(("192.0.2.1", 1))),
            ("2001:db8::1", Some(("2001:db8::1", 3478))),
            ("[2001:db8::1]:99", Some(("2001:db8::1", 99))),
            ("[2001:db8::1]", Some(("2001:db8::1", 3478))),
            ("", None),
            ("stun.example:0", None),
            ("stun.example:65536", None),
            ("stun example", None),
            ("[::1]x", None),
        ];
        for (text, expected) in rows {
            let got = text.parse::<Server>().ok();
            let expected = expected.map(|(host, port)| Server { host: host.into(), port });
            assert_eq!(got, expected, "{text}");
        }
    }

    #[test]
    fn people_get_a_line_per_check_and_what_it_means() {
        let family = Family {
            udp: Udp::Answered,
            server: "192.0.2.1:3478".parse().ok(),
            two_addresses: true,
            local: "10.0.0.2:5000".parse().ok(),
            mapped: "198.51.100.7:5000".parse().ok(),
            translated: Some(true),
            mtu: PathMtu::AtLeast(1500),
            rtt: Some(Duration::from_micros(12_345)),
            ..Family::default()
        };
        let relay = Relay {
            url: "https://broker.example".into(),
            port: 443,
            rtt: Some(Duration::from_millis(20)),
            error: None,
        };
        let servers = vec!["192.0.2.1:3478".parse().unwrap()];
        let facts = Facts { servers, v4: family, relays: vec![relay], ..Facts::default() };
        let expected = "IPv4 UDP\t192.0.2.1:3478 answers in 12.3 ms\n\
            IPv4 address\t198.51.100.7:5000 outside, 10.0.0.2:5000 here\n\
            IPv4 mapping\tnot known\nIPv4 filtering\tnot known\nIPv4 hairpin\tnot known\n\
            IPv4 MTU\t1500 bytes, perhaps more\n\
            IPv6 UDP\tnot tested: no STUN server with such an address is known\n\
            port mapping\tnot tried\nproxy\tnone\n\
            relay\thttps://broker.example answers in 20.0 ms\n\
            → UDP gets through.";
        let text = describe(&facts, &judge(&facts), None);
        assert!(text.starts_with(expected), "{text}");
        let narrow = describe(&facts, &judge(&facts), Some(60));
        assert!(narrow.starts_with("CHECK           FOUND\n"), "{narrow}");
        assert!(narrow.lines().all(|l| l.chars().count() <= 60), "{narrow}");
    }
}
