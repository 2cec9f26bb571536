//! The examples in `docs/local-api.md` work.

use std::process::Command;

use super::http::up_with_http;
use crate::common::{Broker, Home, Pair};

const DOC: &str = include_str!("../../docs/local-api.md");

/// The document's code of one language.
fn blocks(language: &str) -> Vec<String> {
    let open = format!("```{language}\n");
    let parts = DOC.split(&open).skip(1);
    parts.map(|part| part.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_examples_work_as_they_are() {
    let broker = Broker::start(&[]);
    let (ana, bob) = (Home::named(".meshwire"), Home::new());
    ana.create_mesh("home", &broker, "ana");
    bob.join(&ana.invite(&[]), "bob");
    let pair = Pair { ana, bob, broker };
    let _ana = up_with_http(&pair.ana, &[], &[]);
    let _bob = pair.bob.node();
    let run = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).env("HOME", pair.ana.path().parent().unwrap());
        command.env_remove("MESHWIRE_HOME").env_remove("http_proxy");
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        assert!(output.status.success(), "{program} {args:?}: {stdout}{stderr}");
        stdout
    };
    let shell = blocks("sh");
    assert_eq!(shell.len(), 2);
    let said = run("sh", &["-euc", &shell[0]]);
    assert!(said.contains(r#""state":"delivered""#), "{said}");
    assert!(run("sh", &["-euc", &shell[1]]).contains(r#""pid":"#));
    let python = blocks("python");
    assert_eq!(python.len(), 1);
    let said = run("python3", &["-c", &python[0]]);
    assert_eq!(said.lines().last(), Some("delivered"), "{said}");
    let texts = pair.bob.texts();
    assert_eq!(texts, ["the report is there", "hello"]);
}
