//! The corpora: what is made from vectors and examples is exactly what lies in `corpora/`.
//! `MESHWIRE_WRITE_CORPORA=1` writes it. Files named `recorded-…` and `found-…` are kept as they are: real
//! programs' messages (`record.py`), and inputs that once broke something.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;

use meshwire_fuzz::TARGETS;
use meshwire_signaling::codec::{self, to_msgpack};
use meshwire_signaling::id::Blob;
use meshwire_signaling::p2p::SignedStep;
use serde_json::Value;

/// RFC 5769's messages and RFC 8489's (appendix B.1).
const RFC: [&str; 5] = [
    "rfc5769-request",
    "rfc5769-response-v4",
    "rfc5769-response-v6",
    "rfc5769-long-term",
    "rfc8489-sha256",
];

type Corpora = BTreeMap<(&'static str, String), Vec<u8>>;

fn steps(all: &[(u8, u8, &[u8])]) -> Vec<u8> {
    let step = |(what, which, bytes): &(u8, u8, &[u8])| {
        [&[*what, *which, u8::try_from(bytes.len()).unwrap()], *bytes].concat()
    };
    all.iter().flat_map(step).collect()
}

fn unhex(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

/// A message of [`RFC`].
fn rfc(name: &str) -> Vec<u8> {
    let path = format!("{}/../turn/vectors/{name}.hex", env!("CARGO_MANIFEST_DIR"));
    hex::decode(fs::read_to_string(path).unwrap().replace('\n', "")).unwrap()
}

/// The cases of a list in a file of vectors.
fn cases(file: &str, list: &str) -> Vec<Value> {
    let path = format!("{}/../signaling/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    let all: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    all[list].as_array().unwrap().clone()
}

fn stun_and_demux(corpora: &mut Corpora) {
    for name in RFC {
        for target in ["stun", "demux"] {
            corpora.insert((target, name.to_owned()), rfc(name));
        }
    }
    let channel = b"\x40\x00\x00\x05hello\0\0\0".to_vec();
    let stream = [rfc(RFC[0]), channel.clone()].concat();
    corpora.insert(("stun", "channel".into()), channel.clone());
    corpora.insert(("stun", "stream".into()), stream);
    corpora.insert(("demux", "channel".into()), channel);
    // RFC 9001 appendix A.2's Initial packet, as far as its header goes; a short header.
    let initial = "c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11";
    corpora.insert(("demux", "quic-initial".into()), hex::decode(initial).unwrap());
    corpora.insert(("demux", "quic-short".into()), hex::decode("4cfe4189655e5cd5").unwrap());
    corpora.insert(("demux", "binding-request".into()), {
        let mut request = hex::decode("000100002112a442").unwrap();
        request.extend([7; 12]);
        request
    });
}

fn turn_server(corpora: &mut Corpora) {
    // Attributes as `meshwire_turn::fuzz` reads them: kind, choice, value.
    const UDP: &[u8] = &[0, 0, 17, 0, 0, 0];
    const LIFETIME: &[u8] = &[1, 0, 0, 0, 1, 0];
    const PEER: &[u8] = &[2, 0, 0, 1, 0x21, 0x1b, 0x20, 0x13, 0xa5, 0x43];
    const CHANNEL: &[u8] = &[3, 0, 0x40, 0, 0, 0];
    let bind = [CHANNEL, PEER].concat();
    let channel = b"\x40\x00\x00\x05hello";
    // Refresh, permission, binding, allocation: 1 to 4. 0 sends bytes as they are, 5 lets time pass,
    // 6 is a peer's datagram, 7 ends a stream.
    let whole = [
        (4, 0, UDP),
        (2, 0, PEER),
        (3, 0, &bind),
        (0, 0, channel),
        (6, 1, b"answer"),
        (1, 0, LIFETIME),
        (5, 0, &[0; 90]),
        (6, 1, b"late"),
        (1, 0, &[1, 0, 0, 0, 0, 0]),
    ];
    corpora.insert(("turn_server", "whole".into()), steps(&whole));
    let three = [(4, 0, UDP), (4, 1, UDP), (4, 2, UDP), (4, 0, UDP), (7, 1, &[][..]), (4, 1, UDP)];
    corpora.insert(("turn_server", "three-clients".into()), steps(&three));
    let options = [0, 1, 4, 5, 6, 7, 8, 9].map(|kind| vec![kind, 0, 17, 0, 0, 0, 0, 0, 0, 0, 0]);
    for (n, option) in options.iter().enumerate() {
        let asked = [UDP, &option[..6]].concat();
        corpora
            .insert(("turn_server", format!("option-{n}")), steps(&[(4, 0, &asked), (1, 0, &[])]));
    }
    for name in RFC {
        let bytes = rfc(name);
        let sent = steps(&[(4, 0, UDP), (0, 0, &bytes), (0, 1, &bytes)]);
        corpora.insert(("turn_server", name.to_owned()), sent);
    }
    let many: Vec<u8> = (0..6)
        .flat_map(|n| {
            [&[3, 0, 0x40, n, 0, 0][..], &[2, 0, 0, 1, 0x21, 0x1b, 0x20, 0x13, 0xa5, 0x42 ^ n]]
                .concat()
        })
        .collect();
    let bound: Vec<(u8, u8, &[u8])> =
        [(4, 0, UDP)].into_iter().chain(many.chunks(16).map(|b| (3, 0, b))).collect();
    corpora.insert(("turn_server", "channels".into()), steps(&bound));
}

fn frames(corpora: &mut Corpora) {
    let mut types: BTreeMap<String, u8> = BTreeMap::new();
    for case in cases("frames.json", "frames") {
        let kind = case["type"].as_str().unwrap().to_owned();
        let count = types.entry(kind.clone()).or_default();
        *count += 1;
        if *count == 1 {
            corpora.insert(("frames", format!("{kind}-msgpack")), unhex(&case["msgpack"]));
            let json = case["json"].as_str().unwrap().as_bytes().to_vec();
            // One in four as JSON, too: it is another parser, not other frames.
            if types.len().is_multiple_of(4) {
                corpora.insert(("frames", format!("{kind}-json")), json);
            }
        }
    }
    for (n, case) in cases("refused.json", "refused").iter().enumerate().step_by(5) {
        corpora.insert(("frames", format!("refused-{n:02}")), unhex(&case["bytes"]));
    }
    let mut envelopes = Vec::new();
    for list in ["envelopes_box", "envelopes_group"] {
        for (n, case) in cases("layouts.json", list).iter().enumerate() {
            let envelope = unhex(&case["envelope"]);
            corpora.insert(("frames", format!("{list}-{n}")), envelope.clone());
            envelopes.push(envelope);
        }
    }
    link_frames(corpora, &envelopes);
}

fn link_frames(corpora: &mut Corpora, envelopes: &[Vec<u8>]) {
    let frame = |kind: u8, body: &[u8]| {
        let length = u32::try_from(body.len() + 1).unwrap().to_be_bytes();
        [&length[..], &[kind], body].concat()
    };
    let fields = |fields: &[(&str, Value)]| {
        let map: BTreeMap<&str, &Value> = fields.iter().map(|(k, v)| (*k, v)).collect();
        to_msgpack(&map)
    };
    let key = |n: u8| to_msgpack(&Blob(vec![n; 32]));
    let hello = [&b"\x83\xa4mesh"[..], &key(1), b"\xa4from", &key(2), b"\xa2to", &key(3)].concat();
    let taken = frame(3, &fields(&[("n", 7.into())]));
    let bye = frame(5, &fields(&[("reason", "closed".into())]));
    let mut whole = frame(1, &hello);
    for (n, envelope) in envelopes.iter().enumerate() {
        corpora.insert(("link_frames", format!("envelope-{n}")), frame(2, envelope));
    }
    whole.extend(frame(2, &envelopes[0]));
    whole.extend(frame(99, b"later"));
    whole.extend(&taken);
    whole.extend(&bye);
    for (n, case) in cases("layouts.json", "receipts").iter().enumerate() {
        let receipt = unhex(&case["receipt"]);
        let id = to_msgpack(&Blob(vec![0; 16]));
        let body =
            [&b"\x83\xa4from"[..], &key(2), b"\xa2id", &id, b"\xa7receipt", &receipt].concat();
        corpora.insert(("link_frames", format!("receipt-{n}")), frame(4, &body));
    }
    corpora.insert(("link_frames", "hello".into()), frame(1, &hello));
    corpora.insert(("link_frames", "taken".into()), taken);
    corpora.insert(("link_frames", "bye".into()), bye);
    corpora.insert(("link_frames", "whole".into()), whole);
}

fn offers_and_candidates(corpora: &mut Corpora) {
    for case in cases("p2p.json", "steps") {
        let name = case["name"].as_str().unwrap().replace(' ', "-");
        // The way of its sender: the second member's, the session's, or the first member's.
        let way = match name.as_str() {
            "answer" | "bye" => 5,
            "offer-of-a-session" => 10,
            _ => 0,
        };
        let plain = unhex(&case["plain"]);
        let signed: SignedStep = codec::from_msgpack(&plain).unwrap();
        let all = [unhex(&case["sealed"]), plain, signed.payload.0];
        for (how, bytes) in (0_u8..).zip(all) {
            let input = [&[way + how], &bytes[..]].concat();
            corpora.insert(("offers", format!("{name}-{how}")), input);
        }
    }
    for list in ["quic", "quic_refused"] {
        for (n, case) in cases("p2p.json", list).iter().enumerate() {
            let content = unhex(&case["bytes"]);
            corpora.insert(("offers", format!("{list}-{n:02}")), [&[3], &content[..]].concat());
            if case["kind"] == "candidate" {
                let input = [&[0], &content[..]].concat();
                corpora.insert(("candidates", format!("{list}-{n:02}")), input);
            }
        }
    }
    let attempt = |attempt: u8, seq: u8| [attempt, 0, 0, 0, 0, 0, 0, 0, seq];
    let twice = [attempt(1, 0), attempt(1, 1), attempt(1, 0), attempt(2, 0), attempt(1, 63)];
    let twice: Vec<(u8, u8, &[u8])> = twice.iter().map(|a| (0, 0, &a[..])).collect();
    corpora.insert(("offers", "attempts".into()), [&[4][..], &steps(&twice)].concat());
    let texts = [
        "192.0.2.1:4000",
        "[2001:db8::1]:4000",
        "[::ffff:127.0.0.1]:4000",
        "[fe80::1%eth0]:4000",
        "0.0.0.0:0",
        "224.0.0.1:5353",
        "192.168.1.255:4000",
        "010.0.0.1:4000",
        "host.example:4000",
    ];
    for (n, text) in texts.iter().enumerate() {
        corpora.insert(("candidates", format!("text-{n}")), [&[1], text.as_bytes()].concat());
    }
    let many: Vec<u8> = (0..30).flat_map(|n| [n, 10, 0, 0, n, 0x13, 0x88, n]).collect();
    corpora.insert(("candidates", "many".into()), [&[2], &many[..]].concat());
}

fn ice(corpora: &mut Corpora) {
    const TIME: (u8, u8, &[u8]) = (6, 10, &[]);
    let on = |n: u8| (0, n, &[][..]);
    let mut good = vec![TIME];
    for _ in 0..6 {
        good.extend([on(0), on(1), on(0), on(1), TIME]);
    }
    corpora.insert(("ice", "connects".into()), steps(&good));
    let mut bad = good.clone();
    bad.splice(6..6, [(2, 0, &[30, 1, 50, 2][..]), (1, 1, &[]), (3, 0, &[9, 9, 9, 7, 20, 0])]);
    corpora.insert(("ice", "meddled-with".into()), steps(&bad));
    let offered: [&[u8]; 4] = [
        &[9, 9, 9, 2, 23, 112],
        &[127, 0, 0, 1, 20, 0],
        &[10, 0, 2, 1, 0, 22],
        &[1, 2, 3, 4, 5, 6],
    ];
    let mut trickled: Vec<(u8, u8, &[u8])> =
        (0_u8..).zip(offered).map(|(n, bytes)| (7, n * 4, bytes)).collect();
    trickled.extend([(8, 0, &[][..]), TIME, on(0), on(1), (8, 8, &[]), TIME, on(0), on(1)]);
    trickled.extend(good);
    corpora.insert(("ice", "trickled".into()), steps(&trickled));
    let request = rfc(RFC[0]);
    let strange = [&[9, 9, 9, 9, 20, 0], &request[..]].concat();
    corpora.insert(("ice", "stranger".into()), steps(&[TIME, (4, 0, &strange), (4, 1, &strange)]));
    let silent = [TIME, (5, 0, &[]), (5, 1, &[]), (6, 255, &[]), (6, 255, &[]), (6, 255, &[])];
    corpora.insert(("ice", "silence".into()), steps(&silent));
}

fn netcheck(corpora: &mut Corpora) {
    // MAPPED-ADDRESS 9.9.9.9:5000 and OTHER-ADDRESS 203.0.113.2:3479.
    let seen = [0, 1, 0, 8, 0, 1, 0x13, 0x88, 9, 9, 9, 9];
    let other = [0x80, 0x2c, 0, 8, 0, 1, 0x0d, 0x97, 203, 0, 113, 2];
    let answer = [seen, other].concat();
    let mut all = vec![(0, 0, &answer[..]), (4, 100, &[])];
    for n in 0..24 {
        all.push((0, n, &answer[..]));
    }
    corpora.insert(("netcheck", "open".into()), steps(&all));
    let hairpin: Vec<(u8, u8, &[u8])> =
        (0..24).flat_map(|n| [(0, n, &seen[..]), (8, n, &[][..]), (4, 60, &[])]).collect();
    corpora.insert(("netcheck", "one-address".into()), steps(&hairpin));
    let refused = [(1, 0, &[][..]), (5, 1, &[]), (4, 255, &[]), (4, 255, &[])];
    corpora.insert(("netcheck", "refused".into()), steps(&refused));
    let victim = [0x80, 0x2c, 0, 8, 0, 1, 0, 22, 127, 0, 0, 1];
    let victim = [seen, victim].concat();
    corpora.insert(
        ("netcheck", "victim".into()),
        steps(&[(0, 0, &victim), (4, 100, &[]), (4, 0, &[])]),
    );
    let response = rfc(RFC[1]);
    corpora.insert(
        ("netcheck", "xor-mapped".into()),
        steps(&[(0, 0, &response[20..]), (3, 0, &response)]),
    );
}

/// What, how long, and which bytes.
type Step<'a> = (u8, u8, &'a [u8]);

fn routers(corpora: &mut Corpora) {
    // Result, lifetime, port, address.
    let good = [0, 0, 0, 4, 0xb0, 0x9c, 0x40, 9, 9, 9, 9];
    let private = [0, 0, 0, 4, 0xb0, 0x9c, 0x40, 10, 0, 0, 1];
    let refused = [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let version = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let pmp = [0, 9, 9, 9, 9, 0x9c, 0x40, 0, 0, 4, 0xb0];
    let rows: [(&str, Vec<Step<'_>>); 6] = [
        ("pcp", vec![(1, 0, &good), (4, 30, &[]), (1, 0, &good), (4, 255, &[]), (1, 0, &private)]),
        ("pcp-refused", vec![(1, 0, &refused), (5, 0, &[]), (4, 3, &[]), (1, 0, &good)]),
        (
            "pmp",
            vec![
                (1, 0, &version),
                (2, 0, &pmp),
                (2, 0, &pmp),
                (4, 25, &[]),
                (2, 0, &pmp),
                (2, 0, &pmp),
            ],
        ),
        ("pmp-refused", vec![(1, 0, &version), (2, 0, &refused), (4, 255, &[])]),
        ("silent", vec![(3, 150, &[]), (3, 150, &[]), (4, 255, &[]), (3, 100, &[])]),
        ("raw", vec![(0, 0, &[2, 0x81, 0, 1]), (0, 0, &[0, 0x80, 0, 0, 0, 0, 0, 0, 9, 9, 9, 9])]),
    ];
    for (name, all) in rows {
        corpora.insert(("port_mapper", name.into()), steps(&all));
    }
    let service = |kind: &str, url: &str| {
        format!(
            "<service><serviceType>urn:schemas-upnp-org:service:{kind}</serviceType><serviceId>x\
             </serviceId><controlURL>{url}</controlURL><SCPDURL>/x.xml</SCPDURL></service>"
        )
    };
    let described = |services: &[String]| {
        format!(
            "<?xml version=\"1.0\"?><root xmlns=\"urn:schemas-upnp-org:device-1-0\"><device>\
             <serviceList>{}</serviceList></device></root>",
            services.concat()
        )
    };
    let soap = |body: &str| format!("<s:Envelope><s:Body>{body}</s:Body></s:Envelope>");
    let texts = [
        ("found", "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: upnp:rootdevice\r\nEXT:\r\nSERVER: x\r\nLOCATION: http://192.168.1.1:5000/rootDesc.xml\r\n\r\n".to_owned()),
        ("elsewhere", "HTTP/1.1 200 OK\r\nLocation: http://192.168.1.1@10.0.0.1:80/\r\n\r\n".to_owned()),
        ("described", described(&[service("Layer3Forwarding:1", "/l3f"), service("WANIPConnection:1", "/ctl/IPConn"), service("WANPPPConnection:1", "http://192.168.1.1:5001/ppp")])),
        ("many-services", described(&[service("WANIPConnection:2", "ctl").repeat(9)])),
        ("cut", described(&[service("WANIPConnection:1", "/a")])[..170].to_owned()),
        ("address", soap("<u:GetExternalIPAddressResponse><NewExternalIPAddress>203.0.113.7</NewExternalIPAddress></u:GetExternalIPAddressResponse>")),
        ("fault", soap("<s:Fault><detail><UPnPError><errorCode>718</errorCode></UPnPError></detail></s:Fault>")),
    ];
    for (name, text) in texts {
        corpora.insert(("upnp", name.into()), text.into_bytes());
    }
}

fn stream_wire(corpora: &mut Corpora) {
    for list in ["opens", "opens_refused", "records", "states", "resets"] {
        // Half of them: the rest differ in values alone.
        for (n, case) in cases("streams.json", list).iter().enumerate().step_by(2) {
            let bytes = unhex(case.get("bytes").unwrap_or(&case["record"]));
            if bytes.len() <= 2_048 {
                corpora.insert(("stream_wire", format!("{list}-{n:02}")), bytes);
            }
        }
    }
    let record = unhex(&cases("streams.json", "records")[0]["record"]);
    let way = [[2; 32], [3; 32]].concat();
    let (stream, to) = ([4; 16], [3; 32]);
    let carried = [
        ("carried", [&[1], &way[..], &record].concat()),
        ("credit", [&[2], &stream[..], &to, &70_000_u64.to_be_bytes()].concat()),
        ("gone", [&[3], &stream[..], &to, &[1]].concat()),
        ("unknown", [&[4], &way[..], &stream].concat()),
    ];
    for (name, bytes) in carried {
        corpora.insert(("stream_wire", name.into()), bytes);
    }
}

/// Steps as `streams` reads them; an odd second number is the acceptor's side, its rest which link.
fn streams(corpora: &mut Corpora) {
    const UP: Step<'_> = (0, 0, &[]);
    const DIRECT: Step<'_> = (0, 2, &[]);
    let on = |n: u8| (4, n, &[63][..]);
    let write = |side: u8| (2, side, &[0xff, 0xff][..]);
    let read = |side: u8| (10, side, &[0xff, 0xff][..]);
    let later = (11, 0, &[50, 0][..]);
    let round = [on(0), on(1), write(0), write(1), on(0), on(1), read(0), read(1), later];
    let other = [on(2), on(3), write(0), write(1), on(2), on(3), read(0), read(1), later];
    let ends = [(3, 0, &[][..]), (3, 1, &[])];
    let plain = [&[UP][..], &round, &round, &round, &ends].concat();
    corpora.insert(("streams", "both-ways".into()), steps(&plain));
    let lost =
        [&[UP, DIRECT][..], &other, &other, &[(1, 2, &[][..])], &round, &round, &ends].concat();
    corpora.insert(("streams", "both-ways-and-a-lost-link".into()), steps(&lost));
    let swallowed =
        [&[UP][..], &round, &[(7, 0, &[][..]), (7, 1, &[])], &round, &[later; 12], &round].concat();
    corpora.insert(("streams", "what-a-living-link-loses".into()), steps(&swallowed));
    let meddled = [
        &[UP][..],
        &round,
        &[write(0), (4, 1, &[0][..]), (8, 0, &[0]), (9, 0, &[3, 1, 0]), (9, 0, &[200, 255, 3])],
        &round,
        &[(15, 0, &[1, 2, 3][..]), (12, 0, &[]), (13, 0, &[])],
        &round,
    ]
    .concat();
    corpora.insert(("streams", "meddled-with".into()), steps(&meddled));
    let reset = [&[UP][..], &round, &[(14, 0, &[255, 9][..])], &round].concat();
    corpora.insert(("streams", "reset".into()), steps(&reset));
    let stop = [&[UP][..], &round, &[(15, 1, &[255, 9][..])], &round].concat();
    corpora.insert(("streams", "stopped".into()), steps(&stop));
    let silent = [&[UP][..], &round, &[(11, 0, &[250, 8][..])], &round].concat();
    corpora.insert(("streams", "silence".into()), steps(&silent));
}

#[test]
fn corpora_are_what_is_made_here() {
    let mut corpora = Corpora::new();
    for make in [
        stun_and_demux,
        turn_server,
        frames,
        offers_and_candidates,
        ice,
        netcheck,
        routers,
        stream_wire,
        streams,
    ] {
        make(&mut corpora);
    }
    let write = std::env::var_os("MESHWIRE_WRITE_CORPORA").is_some_and(|v| v == "1");
    for target in TARGETS {
        let folder = target.folder();
        let made = |name: &str| corpora.get(&(target.name, name.to_owned()));
        if write {
            fs::create_dir_all(&folder).unwrap();
            for ((_, name), bytes) in corpora.iter().filter(|((t, _), _)| *t == target.name) {
                fs::write(folder.join(name), bytes).unwrap();
            }
        }
        let mut kept = 0;
        for entry in fs::read_dir(&folder).expect("a corpus: MESHWIRE_WRITE_CORPORA=1 makes it") {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if name.starts_with("recorded-") || name.starts_with("found-") {
                continue;
            }
            match made(&name) {
                Some(bytes) => {
                    assert!(fs::read(&path).unwrap() == *bytes, "{} differs", path.display())
                }
                None if write => fs::remove_file(&path).unwrap(),
                None => panic!("{} is not made here", path.display()),
            }
            kept += usize::from(made(&name).is_some());
        }
        let all = corpora.keys().filter(|(t, _)| *t == target.name).count();
        assert_eq!(
            kept, all,
            "{}: some are missing; MESHWIRE_WRITE_CORPORA=1 writes them",
            target.name
        );
    }
}
