//! Invites: made, listed, ended, and refused where they could not work.

mod common;

use common::{Broker, Home};

fn founded() -> (Home, Broker) {
    let (ana, broker) = (Home::new(), Broker::start(&[]));
    ana.create_mesh("home", &broker, "ana");
    (ana, broker)
}

#[test]
fn a_loopback_broker_is_refused_unless_the_invite_is_local() {
    let (ana, broker) = founded();
    let said = ana.run(&["invite"]);
    assert_eq!((said.status, said.error_code()), (3, "broker_url_loopback"));
    let message = said.json["error"]["message"].as_str().unwrap();
    assert!(message.contains("--local") && message.contains("--broker-url"), "{message}");
    let port = broker.addr.rsplit(':').next().unwrap();
    let has_address = message.contains("this machine has no other address");
    let command = format!(":{port} --public-url https://");
    assert!(has_address || message.contains(&command), "{message}");
    let said = ana.run(&["invite", "--broker-url", "http://localhost:7900"]);
    assert_eq!((said.status, said.error_code()), (3, "broker_url_loopback"));
    let proxied = ana.ok(&["invite", "--broker-url", "https://broker.example/mw"]);
    assert!(proxied["link"].as_str().unwrap().starts_with("https://broker.example/mw/i/"));
}

#[test]
fn an_invite_is_a_line_of_its_own_and_a_command() {
    let (ana, _broker) = founded();
    let said = ana.text(&["invite", "--local", "--expires", "12h", "--role", "admin"]);
    let link = said.stdout.lines().find(|l| l.starts_with("http://")).expect("a line of its own");
    assert!(link.parse::<meshwire_signaling::invite::InviteLink>().is_ok(), "{link}");
    assert!(said.stdout.contains(&format!("meshwire join '{link}'")), "{}", said.stdout);
    let bob = Home::new();
    let joined = bob.text(&["join", link]);
    assert_eq!(joined.status, 0, "{}", joined.stderr);
    assert!(joined.stdout.contains("Next: meshwire up"), "{}", joined.stdout);
    let me = bob.ok(&["mesh", "list"]);
    assert_eq!(me["meshes"][0]["role"], "admin");
    let name = me["meshes"][0]["member_name"].as_str().unwrap();
    assert!(!name.is_empty(), "a default name");
    let again = bob.ok(&["join", link]);
    assert_eq!(again["already_member"], true);
}

#[test]
fn invites_are_listed_and_ended() {
    let (ana, _broker) = founded();
    let (single, many) = (ana.invite(&[]), ana.invite(&["--uses", "3"]));
    let (bob, cy, dora) = (Home::new(), Home::new(), Home::new());
    bob.join(&single, "bob");
    let used = cy.run(&["join", &single, "--name", "cy"]);
    assert_eq!((used.status, used.error_code()), (2, "invite_exhausted"));
    let taken = cy.run(&["join", &many, "--name", "bob"]);
    assert_eq!((taken.status, taken.error_code()), (6, "name_taken"));
    cy.join(&many, "cy");
    let listed = ana.ok(&["invite", "list"]);
    let invites = listed["invites"].as_array().unwrap();
    let of = |state: &str| invites.iter().find(|i| i["state"] == state).expect(state);
    assert_eq!((&of("used")["joined"][0], &of("open")["joined"][0]), (&"bob".into(), &"cy".into()));
    assert_eq!((&of("open")["used"], &of("open")["uses"]), (&1.into(), &3.into()));
    let key = of("open")["invite"].as_str().unwrap().to_owned();
    let ended = ana.ok(&["invite", "revoke", &key[..12]]);
    assert_eq!(ended["invites"][0]["state"], "revoked");
    let late = dora.run(&["join", &many, "--name", "dora"]);
    assert_eq!((late.status, late.error_code()), (2, "invite_revoked"));
    assert_eq!(ana.run(&["invite", "revoke", "0123456789"]).status, 5);
    let denied = bob.run(&["invite", "--local"]);
    assert_eq!((denied.status, denied.error_code()), (7, "forbidden"));
}

#[test]
fn damaged_links_are_refused_with_a_reason() {
    let (ana, _broker) = founded();
    let link = ana.invite(&[]);
    let bob = Home::new();
    for (bad, why) in [
        (link.split('#').next().unwrap(), "behind #"),
        (&link[..link.len() - 8], "copy the whole link"),
        ("ana@laptop", "looks like https://"),
    ] {
        let said = bob.run(&["join", bad]);
        assert_ne!(said.status, 0);
        assert!(said.stderr.contains(why), "{bad}: {}", said.stderr);
    }
}
