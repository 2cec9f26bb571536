//! Which peers are relayed to, address by address.
#![allow(clippy::unwrap_used)] // in helpers too, which clippy does not take for tests

use std::net::{IpAddr, SocketAddr};

use meshwire_turn::addr_policy::{AddressPolicy, Cidr, Refusal, canonical, special};
use proptest::prelude::*;

fn none(_: SocketAddr) -> bool {
    false
}

fn judge(policy: &AddressPolicy, text: &str) -> Option<Refusal> {
    let ip: IpAddr = text.parse().unwrap();
    let (data, permission) =
        (policy.check((ip, 9).into(), none), policy.check_permission((ip, 9).into(), none));
    assert_eq!(data, permission, "{text}");
    data.err()
}

#[test]
fn special_addresses_are_refused_in_every_form() {
    let policy = AddressPolicy::default();
    let table = [
        (Refusal::Unspecified, "0.0.0.0 0.1.2.3 :: ::ffff:0.0.0.0"),
        (Refusal::Loopback, "127.0.0.1 127.255.255.254 ::1 ::ffff:127.0.0.1"),
        (Refusal::LinkLocal, "169.254.0.1 169.254.169.254 fe80::1 febf::1 ::ffff:169.254.169.254"),
        (Refusal::Private, "10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1"),
        (Refusal::Private, "100.127.255.255 fc00::1 fd12:3456::1 ::ffff:10.1.2.3"),
        (Refusal::Multicast, "224.0.0.1 239.255.255.255 255.255.255.255 ff02::1 ff0e::1"),
        (Refusal::Translated, "2002:7f00:1::1 2002:808:808:: 2001:0:1::1 64:ff9b::7f00:1"),
        (Refusal::Translated, "64:ff9b::808:808 64:ff9b:1::1 ::127.0.0.1 ::8.8.8.8 192.88.99.1"),
        (Refusal::Reserved, "192.0.0.1 192.0.2.1 198.18.0.1 198.19.255.255 198.51.100.7"),
        (Refusal::Reserved, "203.0.113.9 240.0.0.1 2001:db8::1 2001:10::1 2001:1ff::1 3fff::1"),
        (Refusal::Reserved, "100::1 5f00::1 4000::1 fec0::1 ::ffff:0:127.0.0.1"),
    ];
    for (refusal, addresses) in table {
        for text in addresses.split(' ') {
            assert_eq!(judge(&policy, text), Some(refusal), "{text}");
        }
    }
    let ordinary = "8.8.8.8 1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 172.15.0.1 \
                    172.32.0.1 192.0.1.1 192.167.1.1 192.169.1.1 198.17.0.1 198.20.0.1 223.255.0.1 \
                    2606:4700::1111 2a00:1450::1 2001:200::1 2001:4860::8888 ::ffff:8.8.8.8";
    for text in ordinary.split_whitespace() {
        assert_eq!(judge(&policy, text), None, "{text}");
    }
}

#[test]
fn own_addresses_are_reached_at_live_relayed_ports_alone() {
    let own: IpAddr = "9.9.9.9".parse().unwrap();
    let policy = AddressPolicy { own: vec![own], allow: vec!["9.0.0.0/8".parse().unwrap()] };
    let live = |addr: SocketAddr| addr == (own, 50_000).into();
    let at = |port| SocketAddr::new(own, port);
    assert_eq!(policy.check(at(50_000), live), Ok(()));
    assert_eq!(policy.check_permission(at(50_000), live), Ok(()));
    for port in [22, 3_478, 49_999] {
        assert_eq!(policy.check(at(port), live), Err(Refusal::Own));
        assert_eq!(policy.check_permission(at(port), live), Err(Refusal::Own));
    }
    let mapped = SocketAddr::new("::ffff:9.9.9.9".parse().unwrap(), 22);
    assert_eq!(policy.check(mapped, live), Err(Refusal::Own));
    // A permission may leave the port open; data may not.
    assert_eq!(policy.check_permission(at(0), live), Ok(()));
    assert_eq!(policy.check(at(0), live), Err(Refusal::Port));
    assert_eq!(policy.check("9.9.9.8:22".parse().unwrap(), live), Ok(()));
}

#[test]
fn an_operator_may_allow_ranges() {
    let allow = ["192.168.0.0/16", "fd00::/8"].map(|r| r.parse::<Cidr>().unwrap()).to_vec();
    let own = vec!["192.168.0.1".parse().unwrap()];
    let policy = AddressPolicy { allow, own };
    assert_eq!(judge(&policy, "192.168.7.7"), None);
    assert_eq!(judge(&policy, "::ffff:192.168.7.7"), None);
    assert_eq!(judge(&policy, "fd00::7"), None);
    assert_eq!(judge(&policy, "192.168.0.1"), Some(Refusal::Own));
    assert_eq!(judge(&policy, "10.0.0.1"), Some(Refusal::Private));
    assert_eq!(judge(&policy, "2002:c0a8:707::1"), Some(Refusal::Translated));
}

#[test]
fn ranges_are_read_and_mistakes_explained() {
    for text in ["10.0.0.0/8", "0.0.0.0/0", "1.2.3.4/32", "fd00::/8", "::/0", "::1/128"] {
        assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
    }
    assert_eq!("1.2.3.4".parse::<Cidr>().unwrap().to_string(), "1.2.3.4/32");
    for (text, says) in [
        ("192.168.1.7/16", "did you mean 192.168.0.0/16?"),
        ("10.0.0.0/33", "0 to 32"),
        ("fd00::/129", "0 to 128"),
        ("10.0.0.0/", "0 to 32"),
        ("lan", "write it as"),
    ] {
        let error = text.parse::<Cidr>().unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    assert!("0.0.0.0/0".parse::<Cidr>().unwrap().contains("255.1.2.3".parse().unwrap()));
    assert!(!"0.0.0.0/0".parse::<Cidr>().unwrap().contains("::1".parse().unwrap()));
}

proptest! {
    #[test]
    fn a_mapped_address_is_judged_as_what_it_maps(ip: std::net::Ipv4Addr, port in 1_u16..) {
        let policy = AddressPolicy::default();
        let plain = policy.check((ip, port).into(), none);
        prop_assert_eq!(policy.check((ip.to_ipv6_mapped(), port).into(), none), plain);
        prop_assert_eq!(special(ip.into()), plain.err());
        // Whatever it is, it is not reached through a gateway.
        let [a, b, c, d] = ip.octets();
        let six: IpAddr = [0x20, 2, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1].into();
        let nat64: IpAddr = [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d].into();
        for hidden in [six, nat64] {
            prop_assert_eq!(policy.check((hidden, port).into(), none), Err(Refusal::Translated));
        }
    }

    #[test]
    fn nothing_special_is_ever_reached(ip: IpAddr, port: u16) {
        let addr = SocketAddr::new(ip, port);
        if AddressPolicy::default().check(addr, none).is_ok() {
            prop_assert_eq!(special(canonical(addr).ip()), None);
            prop_assert!(!ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast());
            prop_assert_ne!(port, 0);
        }
    }
}
