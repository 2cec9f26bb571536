//! Whose packet it is, of two attempts between the same two addresses.

use super::*;

const INITIALS: [[u8; 16]; 2] = [[0xa1; 16], [0xa2; 16]];
const OURS: [u8; CONNECTION_ID] = [5; CONNECTION_ID];
const OLDER: Id = Id(1);
const NEWER: Id = Id(2);
const FRESH: Id = Id(7);
const NODE: Hash = Hash([1; 32]);

fn peer() -> SocketAddr {
    ([127, 0, 0, 1], 40_000).into()
}

/// Two attempts whose peer sends from one address; those of `servers` wait for a handshake.
fn two(servers: &[Id]) -> Routes {
    let routes = Routes::default();
    for (id, initial) in [OLDER, NEWER].into_iter().zip(INITIALS) {
        routes.add(id, &format!("ufrag{}", id.0), queue::channel(1).0);
        routes.add_source(id, peer());
        if servers.contains(&id) {
            routes.listen(id, &initial);
        }
    }
    routes
}

/// A packet of a handshake.
fn long(destination: &[u8], source: &[u8]) -> Vec<u8> {
    let mut packet = vec![0xc3, 0, 0, 0, 1];
    for id in [destination, source] {
        packet.push(u8::try_from(id.len()).unwrap());
        packet.extend_from_slice(id);
    }
    packet.extend_from_slice(&[0; 20]);
    packet
}

fn short(destination: &[u8]) -> Vec<u8> {
    [&[0x40], destination, &[9; 20]].concat()
}

fn whose(routes: &Routes, packet: &[u8]) -> Option<Id> {
    let table = routes.read();
    table.whose(peer(), packet)
}

fn sends(routes: &Routes, face: Id, packet: &[u8]) -> Option<Id> {
    routes.learn(face, packet);
    routes.read().sender(face, packet)
}

#[test]
fn first_packets_go_to_the_attempt_that_they_are_addressed_to() {
    let routes = two(&[OLDER, NEWER]);
    for (id, initial) in [OLDER, NEWER].into_iter().zip(INITIALS) {
        assert_eq!(whose(&routes, &long(&initial, &[1; 8])), Some(id));
    }
}

#[test]
fn later_packets_go_where_their_id_was_made() {
    let routes = two(&[OLDER, NEWER]);
    // What a server's first packet shows, a Retry as well.
    assert_eq!(sends(&routes, OLDER, &long(&[1; 8], &OURS)), Some(OLDER));
    assert_eq!(whose(&routes, &long(&OURS, &[1; 8])), Some(OLDER));
    assert_eq!(whose(&routes, &short(&OURS)), Some(OLDER));
    assert_eq!(whose(&routes, &short(&[6; CONNECTION_ID])), Some(NEWER), "a reset, perhaps");
    assert_eq!(whose(&routes, &[0x40, 1]), None);
}

#[test]
fn first_packets_of_an_older_peer_go_to_the_newest_attempt_that_waits_for_some() {
    let unknown = long(&[8; 20], &[1; 8]);
    assert_eq!(whose(&two(&[OLDER, NEWER]), &unknown), Some(NEWER));
    assert_eq!(whose(&two(&[OLDER]), &unknown), Some(OLDER), "the newer one is the client");
    assert_eq!(whose(&two(&[]), &unknown), None);
}

#[test]
fn who_is_alone_at_an_address_gets_everything() {
    let routes = two(&[OLDER]);
    routes.remove(NEWER);
    for packet in [long(&[8; 20], &[1; 8]), long(&INITIALS[1], &[1; 8]), short(&[6; 8])] {
        assert_eq!(whose(&routes, &packet), Some(OLDER));
    }
}

#[test]
fn an_id_of_an_attempt_that_is_elsewhere_is_nobodys_here() {
    let routes = two(&[OLDER, NEWER]);
    let elsewhere = Id(3);
    routes.add(elsewhere, "elsewhere", queue::channel(1).0);
    routes.listen(elsewhere, &[3; 16]);
    assert_eq!(whose(&routes, &long(&[3; 16], &[1; 8])), None);
}

#[test]
fn nobody_takes_an_id_from_another() {
    let routes = two(&[OLDER]);
    let first = long(&INITIALS[0], &[1; 8]);
    // Somebody has us answer as if another attempt's id were ours: a version negotiation repeats it.
    sends(&routes, NEWER, &long(&[1; 8], &INITIALS[0]));
    routes.listen(NEWER, &INITIALS[0]);
    assert_eq!(whose(&routes, &first), Some(OLDER));
    routes.add(Id(3), "another", queue::channel(1).0);
    routes.add_source(Id(3), peer());
    routes.remove(NEWER);
    assert_eq!(whose(&routes, &first), Some(OLDER), "nor with its end");
}

#[test]
fn what_a_client_was_told_in_secret_is_found_by_quic() {
    let routes = two(&[NEWER]);
    let face = routes.dial(OLDER, FRESH, NODE, &INITIALS[0]);
    let secret = short(&[6; CONNECTION_ID]);
    assert_eq!(whose(&routes, &secret), Some(OLDER), "all that comes to the server is known");
    routes.add(Id(3), "another", queue::channel(1).0);
    routes.add_source(Id(3), peer());
    assert_eq!(routes.dial(Id(3), Id(8), NODE, &[3; 16]), face, "one address for one node");
    let found = whose(&routes, &secret).unwrap();
    let table = routes.read();
    assert_eq!([OLDER, Id(3), found].map(|id| table.face(id)), [face; 3]);
    assert_eq!(table.face(NEWER), NEWER);
}

#[test]
fn what_two_clients_send_to_one_node_goes_by_the_way_of_each() {
    let routes = two(&[]);
    let face = routes.dial(OLDER, FRESH, NODE, &INITIALS[0]);
    routes.dial(NEWER, Id(8), NODE, &INITIALS[1]);
    let clients = [(OLDER, 1, INITIALS[0]), (NEWER, 2, INITIALS[1])];
    for (id, n, initial) in clients {
        assert_eq!(sends(&routes, face, &long(&initial, &[n; 8])), Some(id), "the first packet");
        assert_eq!(sends(&routes, face, &long(&[n + 10; 8], &[n; 8])), Some(id), "the server's id");
    }
    for (id, n, _) in clients {
        assert_eq!(sends(&routes, face, &short(&[n + 10; 8])), Some(id));
        assert_eq!(whose(&routes, &short(&[n; 8])), Some(id));
    }
    assert_eq!(sends(&routes, face, &short(&[99; 8])), Some(NEWER), "all ways lead there");
    routes.add(Id(3), "another", queue::channel(1).0);
    assert_ne!(routes.dial(Id(3), Id(9), Hash([2; 32]), &[3; 16]), face, "another node");
}

#[test]
fn an_attempt_that_ends_leaves_nothing() {
    let routes = two(&[OLDER]);
    assert_eq!(routes.dial(NEWER, FRESH, NODE, &INITIALS[1]), FRESH);
    for n in 0..100 {
        sends(&routes, FRESH, &long(&[n; 9], &[n; CONNECTION_ID]));
        routes.listen(OLDER, &[n; 16]);
    }
    assert_eq!(routes.read().ids.len(), 1 + IDS, "bounded");
    assert_eq!(routes.read().dialed(NEWER).unwrap().1.len(), THEIRS, "bounded");
    routes.remove(OLDER);
    routes.remove(NEWER);
    let table = routes.read();
    assert_eq!([table.ids.len(), table.sources.len(), table.peers.len()], [0; 3]);
    assert_eq!([table.bundles.len(), table.nodes.len()], [0; 2]);
}

#[test]
fn who_claims_to_be_another_node_gets_none_of_its_packets() {
    let routes = two(&[]);
    // The key is what the older one says of itself; its server answers with an id that all packets begin with.
    let face = routes.dial(OLDER, FRESH, NODE, &INITIALS[0]);
    sends(&routes, face, &long(&[], &[1; 8]));
    sends(&routes, face, &long(&[0], &[1; 8]));
    routes.dial(NEWER, Id(8), NODE, &INITIALS[1]);
    sends(&routes, face, &long(&INITIALS[1], &[2; 8]));
    sends(&routes, face, &long(&[0; 8], &[2; 8]));
    assert_eq!(sends(&routes, face, &short(&[0; 8])), Some(NEWER));
}

#[test]
fn who_only_claims_an_address_gets_nothing_that_comes_from_it() {
    let routes = two(&[]);
    routes.dial(OLDER, FRESH, NODE, &INITIALS[0]);
    routes.dial(NEWER, Id(8), Hash([2; 32]), &INITIALS[1]);
    let route = |remote| Some(Route::Direct(Way { local: ([127, 0, 0, 1], 9).into(), remote }));
    routes.set_route(OLDER, route(peer()));
    routes.set_route(NEWER, route(([127, 0, 0, 1], 40_001).into()));
    assert_eq!(whose(&routes, &short(&[6; CONNECTION_ID])), Some(OLDER));
}
