//! IPv4 fragments through `masquerade`.

use meshwire_netsim::packet::{Build, View, build, fragment};

use crate::rules::{linux, masquerade};
use crate::script::{Pair, Script, both};
use crate::wire::{A, IN, fragmentable, sock};

fn pieces(from: &str, to: &str, id: u16) -> Vec<Vec<u8>> {
    let payload: Vec<u8> = (0..2000_u32).map(|n| n.to_be_bytes()[3]).collect();
    fragment(&fragmentable(build(sock(from), sock(to), Build::Udp(&payload)), id), 576)
}

/// The packet that came out in pieces, and from whom to whom.
fn whole(lines: &[String]) -> Vec<&String> {
    lines.iter().filter(|line| line.starts_with("whole")).collect()
}

/// Sends pieces, and notes what they make together.
fn send(s: &mut Script<'_>, pieces: Vec<Vec<u8>>) {
    let out = s.all_out("piece", pieces);
    let mut body = vec![0; 2008];
    let (mut length, mut ends) = (0, None);
    for piece in out {
        let view = View::parse(&piece).unwrap();
        let at = view.ip.fragment.map_or(0, |f| f.offset as usize);
        let part = &piece[view.ip.transport..view.ip.end];
        body[at..at + part.len()].copy_from_slice(part);
        length += part.len();
        ends = Some((view.ip.source, view.ip.destination, view.ip.ttl));
    }
    let Some((source, destination, ttl)) = ends else { return s.note("whole: nothing".to_owned()) };
    let check = meshwire_netsim::packet::transport_checksum(source, destination, 17, &body);
    let first = &body[..4];
    s.note(format!("whole: {length} {source} > {destination} {ttl} {first:?} {check}"));
}

fn same_whole(pair: &Pair<'_>, script: impl Fn(&mut Script<'_>)) {
    if let Some((kernel, engine)) = both(pair, script, |k, e| whole(k) == whole(e)) {
        assert_eq!(whole(&kernel), whole(&engine));
        assert!(!whole(&kernel).is_empty());
    }
}

#[test]
fn pieces_come_out_whatever_their_order() {
    let rules = masquerade("");
    same_whole(&linux(&rules), |s| send(s, pieces(IN, A, 1)));
    same_whole(&linux(&rules), |s| {
        let mut backwards = pieces(IN, A, 2);
        backwards.reverse();
        send(s, backwards);
    });
    same_whole(&linux(&rules), |s| {
        let mut mixed = pieces(IN, A, 3);
        mixed.swap(0, 2);
        send(s, mixed);
    });
}

/// The kernel puts the packet together and takes it apart again; the engine lets pieces follow the
/// first one, so that what is lost is lost to the receiver alone.
#[test]
fn the_kernel_holds_back_what_is_not_whole() {
    let script = |s: &mut Script<'_>| {
        let mut some = pieces(IN, A, 4);
        some.pop();
        let count = s.all_out("piece", some).len();
        s.note(format!("whole: {count} pieces"));
    };
    let Some((kernel, engine)) = both(&linux(&masquerade("")), script, |_, _| true) else { return };
    assert_eq!(whole(&kernel), ["whole: 0 pieces"]);
    assert_eq!(whole(&engine), ["whole: 3 pieces"]);
}
