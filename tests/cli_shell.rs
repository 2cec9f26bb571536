//! What shells and terminals get: completions, manual pages, QR codes.

// Helpers fail their test, as assertions do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use std::io::Write as _;
use std::process::{Command, Stdio};

use common::{Broker, Home};

/// The verbs and their subcommands, as the help lists them.
fn verbs(home: &Home, of: &[&str]) -> Vec<Vec<String>> {
    let help = home.text(&[of, &["-h"]].concat()).stdout;
    let listed = help.lines().skip_while(|l| *l != "Commands:").skip(1);
    let mut all = Vec::new();
    for line in listed.take_while(|l| !l.is_empty()) {
        let Some(name) = line.strip_prefix("  ").filter(|l| !l.starts_with(' ')) else { continue };
        let name = name.split(' ').next().unwrap();
        if name == "help" {
            continue;
        }
        let path = [of, &[name]].concat();
        all.push(path.iter().map(|s| (*s).to_owned()).collect());
        all.extend(verbs(home, &path));
    }
    all
}

#[test]
fn completions_know_every_verb_in_every_shell() {
    let home = Home::new();
    let verbs = verbs(&home, &[]);
    assert!(verbs.len() > 15, "{verbs:?}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let said = home.text(&["completions", shell]);
        assert_eq!(said.status, 0, "{shell}: {}", said.stderr);
        for verb in verbs.iter().flatten() {
            assert!(said.stdout.contains(verb.as_str()), "{shell}: {verb}");
        }
        assert_eq!(home.run(&["completions", shell]).stdout, said.stdout, "the same with --json");
    }
    let said = home.text(&["completions", "nushell"]);
    assert!(said.status == 3 && said.stderr.contains("powershell"), "{said:?}");
    let help = home.text(&["completions", "--help"]).stdout;
    for place in ["bash-completion/completions/meshwire", "$fpath", "fish/completions"] {
        assert!(help.contains(place), "{help}");
    }
    assert!(!home.path().exists(), "completions need no home");
}

#[test]
fn bash_reads_its_script_and_completes_with_it() {
    let home = Home::new();
    let script = home.text(&["completions", "bash"]).stdout;
    let bash = |args: &[&str], input: &str| {
        let mut command = Command::new("bash");
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let ended = child.wait_with_output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        String::from_utf8(ended.stdout).unwrap()
    };
    bash(&["--norc", "-n"], &script);
    let ask = "COMP_WORDS=(meshwire doc); COMP_CWORD=1; _meshwire meshwire doc meshwire\n\
               echo \"${COMPREPLY[@]}\"\n";
    assert_eq!(bash(&["--norc"], &format!("{script}\n{ask}")), "doctor\n");
}

#[test]
fn every_verb_has_a_manual_page_that_groff_reads_without_a_warning() {
    let home = Home::new();
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("share/man1");
    let written = home.ok(&["man", "--dir", dir.to_str().unwrap()]);
    let mut expected: Vec<String> =
        verbs(&home, &[]).iter().map(|v| format!("meshwire-{}.1", v.join("-"))).collect();
    expected.push("meshwire.1".to_owned());
    expected.sort();
    assert_eq!(written["pages"], serde_json::json!(expected));
    let main = home.text(&["man"]).stdout;
    assert_eq!(main, std::fs::read_to_string(dir.join("meshwire.1")).unwrap());
    assert!(main.contains(".SH \"EXIT STATUS\"") && main.contains("meshwire\\-send(1)"), "{main}");
    let mut groff = true;
    for page in &expected {
        let text = std::fs::read_to_string(dir.join(page)).unwrap();
        let title = page.trim_end_matches(".1");
        assert!(text.contains(&format!("\n.TH {title} 1 ")), "{page}: {text}");
        assert!(text.contains(".SH EXAMPLES\n.nf\n"), "{page}: {text}");
        let mut lint = Command::new("groff");
        match lint.args(["-man", "-ww", "-z", "-Tutf8"]).arg(dir.join(page)).output() {
            Ok(said) => assert_eq!(String::from_utf8_lossy(&said.stderr), "", "{page}"),
            Err(_) => groff = false,
        }
    }
    if !groff {
        let _ = writeln!(std::io::stderr(), "groff is not here: only titles were looked at");
    }
}

/// What a camera would read from the half blocks in `text`.
fn scan(text: &str) -> String {
    /// Pixels per module, as a screen would show it.
    const SCALE: usize = 4;
    let blocks = |l: &&str| l.contains('█') && l.chars().all(|c| "█▀▄ ".contains(c));
    let lines: Vec<Vec<char>> = text.lines().filter(blocks).map(|l| l.chars().collect()).collect();
    let light = |x: usize, y: usize| match (lines[y / 2][x], y % 2) {
        ('█', _) | ('▀', 0) | ('▄', 1) => 255,
        _ => 0,
    };
    let (width, height) = (lines[0].len() * SCALE, lines.len() * 2 * SCALE);
    let pixel = |x, y| light(x / SCALE, y / SCALE);
    let mut image = rqrr::PreparedImage::prepare_from_greyscale(width, height, pixel);
    let grids = image.detect_grids();
    assert_eq!(grids.len(), 1, "{text}");
    grids[0].decode().unwrap().1
}

#[test]
fn an_invites_qr_code_reads_as_its_link() {
    let (ana, broker) = (Home::new(), Broker::start(&[]));
    ana.create_mesh("home", &broker, "ana");
    let said = ana.text(&["invite", "--local", "--qr"]);
    assert_eq!(said.status, 0, "{}", said.stderr);
    let link = said.stdout.lines().find(|l| l.starts_with("http://")).unwrap();
    assert_eq!(scan(&said.stdout), link);
    assert!(!said.stdout.contains('\x1b'), "no colours in a pipe");
    let long = format!("https://{}.example/mw", "broker".repeat(9));
    let said = ana.text(&["invite", "--broker-url", &long, "--qr"]);
    assert!(scan(&said.stdout).starts_with(&long));
    let plain = ana.text(&["invite", "--local"]);
    assert!(!plain.stdout.contains('█'));
    let json = ana.ok(&["invite", "--local", "--qr"]);
    assert!(json["link"].is_string() && json.get("qr").is_none(), "{json}");
}
