//! A client of a few lines: what any language's standard library does, with every header in the
//! test's hands.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::Value;

use crate::common::{Home, PATIENCE, Running};

pub(crate) trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A node's API, through one of its doors.
#[derive(Clone)]
pub(crate) enum Api {
    Unix(PathBuf),
    Tcp { port: u16, token: String },
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// Its body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Its status and the code of its error.
    pub(crate) fn code(&self) -> (u16, String) {
        (self.status, self.json()["code"].as_str().unwrap_or_default().to_owned())
    }
}

/// The headers of a well-behaved client.
const PLAIN: &[(&str, &str)] = &[("Host", "localhost"), ("Content-Type", "application/json")];

impl Api {
    /// The socket of a home.
    pub(crate) fn unix(home: &Home) -> Self {
        Self::Unix(home.path().join("node.sock"))
    }

    pub(crate) fn connect(&self) -> Box<dyn Stream> {
        match self {
            Self::Unix(path) => {
                let stream = UnixStream::connect(path).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                Box::new(stream)
            }
            Self::Tcp { port, .. } => {
                let stream = TcpStream::connect(("127.0.0.1", *port)).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                Box::new(stream)
            }
        }
    }

    /// A request with exactly these headers.
    pub(crate) fn raw(
        &self,
        method: &str,
        uri: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut stream = self.connect();
        let mut head = format!("{method} {uri} HTTP/1.1\r\nConnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    /// The headers that this door asks for, and further ones.
    pub(crate) fn with<'a>(
        bearer: &'a str,
        further: &[(&'a str, &'a str)],
    ) -> Vec<(&'a str, &'a str)> {
        [PLAIN, &[("Authorization", bearer)], further].concat()
    }

    fn bearer(&self) -> String {
        match self {
            Self::Unix(_) => "none".to_owned(),
            Self::Tcp { token, .. } => format!("Bearer {token}"),
        }
    }

    /// A well-behaved GET.
    pub(crate) fn get(&self, uri: &str) -> Answer {
        self.raw("GET", uri, &Self::with(&self.bearer(), &[]), b"")
    }

    /// A well-behaved POST.
    pub(crate) fn post(&self, uri: &str, body: &Value) -> Answer {
        self.post_with(uri, &[], body)
    }

    /// A POST with further headers.
    pub(crate) fn post_with(&self, uri: &str, further: &[(&str, &str)], body: &Value) -> Answer {
        let bearer = self.bearer();
        self.raw("POST", uri, &Self::with(&bearer, further), body.to_string().as_bytes())
    }

    /// A GET whose answer nobody reads yet.
    pub(crate) fn begin(&self, uri: &str) -> Box<dyn Stream> {
        self.begin_with(uri, &[])
    }

    /// As [`Self::begin`], with further headers.
    pub(crate) fn begin_with(&self, uri: &str, further: &[(&str, &str)]) -> Box<dyn Stream> {
        let mut stream = self.connect();
        let mut head = format!("GET {uri} HTTP/1.1\r\n");
        for (name, value) in Self::with(&self.bearer(), further) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream
    }

    /// A stream of events. HTTP/1.0, so that it comes as it is, without chunks.
    pub(crate) fn events(&self, further: &[(&str, &str)]) -> Events {
        let mut stream = self.connect();
        let bearer = self.bearer();
        let mut head = "GET /v1/events HTTP/1.0\r\n".to_owned();
        for (name, value) in Self::with(&bearer, further) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut events =
            Events { reader: BufReader::new(stream), head: String::new(), seen: Vec::new() };
        loop {
            let line = events.line().unwrap_or_else(|| panic!("no head"));
            if line.is_empty() {
                return events;
            }
            events.head.push_str(&line);
            events.head.push('\n');
        }
    }
}

/// An open stream of events.
pub(crate) struct Events {
    reader: BufReader<Box<dyn Stream>>,
    pub(crate) head: String,
    /// The names of those that came, for whoever waits in vain.
    seen: Vec<String>,
}

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: Option<String>,
    pub(crate) data: Value,
}

impl Events {
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let len = self.reader.read_line(&mut line).unwrap();
        (len > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// The next event; none at the stream's end.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let mut event = Event { name: String::new(), id: None, data: Value::Null };
        let until = Instant::now() + PATIENCE;
        loop {
            // Comments keep a stream alive that says nothing else.
            assert!(Instant::now() < until, "no event comes after {:?}", self.seen);
            let line = self.line()?;
            match line.split_once(": ") {
                Some(("event", name)) => event.name = name.to_owned(),
                Some(("id", id)) => event.id = Some(id.to_owned()),
                Some(("data", data)) => event.data = serde_json::from_str(data).unwrap(),
                _ if line.is_empty() && !event.name.is_empty() => {
                    self.seen.push(format!("{} {}", event.name, event.data));
                    return Some(event);
                }
                // A comment, or the end of one.
                _ => assert!(line.is_empty() || line.starts_with(':'), "{line}"),
            }
        }
    }

    /// The next event of this kind.
    pub(crate) fn of(&mut self, name: &str) -> Event {
        loop {
            let event = self.next().unwrap_or_else(|| panic!("the stream ended before {name}"));
            if event.name == name {
                return event;
            }
        }
    }
}

/// A port that is free for a moment.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Starts a home's node with its API on a port that was free a moment ago.
pub(crate) fn up_with_http(home: &Home, further: &[&str], env: &[(&str, &str)]) -> (Running, Api) {
    for _ in 0..10 {
        let free = free_port();
        let port = free.to_string();
        let mut command = home.command(&["--json", "up", "--foreground", "--http", &port]);
        command.args(further).envs(env.iter().copied());
        let node = Running::start(command, Some(&home.node_log()));
        // Somebody else may have taken the port since: then it says nothing and ends.
        let Some(line) = node.maybe_line() else { continue };
        let ready: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(ready["http"], format!("http://127.0.0.1:{port}"), "{ready}");
        let token = std::fs::read_to_string(home.path().join("api.token")).unwrap();
        return (node, Api::Tcp { port: free, token: token.trim().to_owned() });
    }
    panic!("no port stays free");
}

/// Waits until a message that was sent is in a state.
pub(crate) fn comes_to(api: &Api, id: &str, state: &str) -> Value {
    crate::common::until(state, || {
        let message = api.get(&format!("/v1/message?id={id}")).json();
        (message["state"] == state).then_some(message)
    })
}
