//! A stream that the background node carries: the other end of `local_api::pump`.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::SplitStream;
use futures_util::{Sink, SinkExt as _, StreamExt as _};
use http_body_util::Full;
use hyper::upgrade::Upgraded;
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use meshwire_signaling::limits::ms;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::{AgentReader, AgentStream, AgentWriter, StreamFailure, StreamWatch};
use crate::api::{
    AcceptStream, ApiError, ErrorKind, OpenStream, StreamCancel, StreamEvent, StreamOrder,
    StreamProgress, StreamRow, StreamStop,
};
use crate::client::{Client, PATIENCE, fault};
use crate::local_api::{LONGEST_ACCEPT, MAX_MESSAGE, path, socket_config};

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Messages that wait for the program, and for the socket, each of at most [`MAX_MESSAGE`] bytes.
const WAITING: usize = 8;
/// How long a socket that is full may keep a reset waiting; then closing it resets the stream as well.
const HURRY: Duration = Duration::from_millis(500);
/// The node's word for an accept that has waited long enough.
const NO_STREAM: &str = "no_stream";
/// How long an accept that has waited before leaves a busy node alone.
const AGAIN: Duration = Duration::from_secs(1);
/// How long an open takes at most if nobody says.
const OPEN: Duration = Duration::from_secs(60);

impl Client {
    /// Opens a stream to a peer, and waits until it is accepted there.
    ///
    /// # Errors
    /// The node's own error, or [`crate::api::ErrorKind::Io`] where the socket fails.
    pub async fn open_stream(&self, ask: &OpenStream) -> Result<AgentStream, ApiError> {
        let wait = ask.timeout_ms.map_or(OPEN, Duration::from_millis);
        let opening = self.upgrade(path::OPEN_STREAM, ask);
        match timeout(PATIENCE.saturating_add(wait), opening).await {
            Ok(stream) => stream,
            Err(_) => Err(self.failed(&"it does not answer")),
        }
    }

    /// Waits for a stream that a peer opens. Cancel-safe.
    ///
    /// # Errors
    /// The node's own error, or [`crate::api::ErrorKind::Io`] where the socket fails.
    pub async fn accept_stream(&self, ask: &AcceptStream) -> Result<AgentStream, ApiError> {
        let begun = Instant::now();
        let mut waited = None;
        loop {
            let left = ask.timeout_ms.map(|all| all.saturating_sub(ms(begun.elapsed())));
            let ask = AcceptStream { timeout_ms: left, ..ask.clone() };
            match self.upgrade(path::ACCEPT_STREAM, &ask).await {
                // The node waits no longer at once; what is opened meanwhile waits for the next.
                Err(e) if e.code == NO_STREAM && left.is_none_or(|ms| ms > LONGEST_ACCEPT) => {
                    waited = Some(e);
                }
                // Who was let wait once goes on waiting, though others have taken the room meanwhile.
                Err(e) if e.kind == ErrorKind::Busy => match &waited {
                    None => return Err(e),
                    Some(none) if left == Some(0) => return Err(none.clone()),
                    Some(_) => {
                        sleep(left.map_or(AGAIN, |ms| AGAIN.min(Duration::from_millis(ms)))).await;
                    }
                },
                answered => return answered,
            }
        }
    }

    async fn upgrade<Ask: Serialize>(
        &self,
        path: &str,
        ask: &Ask,
    ) -> Result<AgentStream, ApiError> {
        let query = serde_urlencoded::to_string(ask).map_err(|e| fault(&e.to_string()))?;
        let (mut sender, connection) = self.connect().await?;
        // It ends with this call, unless it has become the socket.
        let mut driving = JoinSet::new();
        driving.spawn(connection.with_upgrades());
        let key = generate_key();
        let request = self
            .request(Method::GET, &format!("{path}?{query}"))
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", &key)
            .body(Full::default())
            .map_err(|e| fault(&e.to_string()))?;
        let answer = sender.send_request(request).await.map_err(|e| self.failed(&e))?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            self.read(answer).await?;
            return Err(fault("the node answers without opening a WebSocket"));
        }
        let accepted = answer.headers().get("sec-websocket-accept");
        if accepted.is_none_or(|accepted| *accepted != derive_accept_key(key.as_bytes())) {
            return Err(fault("the node opens another WebSocket than was asked for"));
        }
        let upgraded = hyper::upgrade::on(answer).await.map_err(|e| self.failed(&e))?;
        let io = TokioIo::new(upgraded);
        let config = Some(socket_config());
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Client, config).await;
        match socket.next().await {
            Some(Ok(Message::Text(text))) => match serde_json::from_str(text.as_str()) {
                Ok(StreamEvent::Stream(row)) => Ok(start(*row, socket)),
                _ => Err(fault("the node does not say which stream it is")),
            },
            _ => Err(self.failed(&"it has dropped the stream")),
        }
    }
}

/// What is known of the stream.
#[derive(Clone, Debug, Default)]
struct State {
    progress: StreamProgress,
    ended: bool,
    finished: bool,
    stopped: Option<u32>,
    failure: Option<StreamFailure>,
    gone: bool,
}

impl State {
    /// Why nothing more can be written.
    fn unwritable(&self) -> Option<StreamFailure> {
        let stopped = self.stopped.map(|code| StreamFailure::Stopped { code });
        self.failure.clone().or(stopped)
    }
}

fn start(row: StreamRow, socket: Socket) -> AgentStream {
    let (sink, source) = socket.split();
    let (out, orders) = mpsc::channel(WAITING);
    let (bytes, chunks) = mpsc::channel(WAITING);
    let (tell, state) = watch::channel(State { progress: row.progress, ..State::default() });
    let (reads, reader) = oneshot::channel();
    let (writes, writer) = oneshot::channel();
    let parts = Parts { reader, writer };
    tokio::spawn(async move {
        let gone = tell.clone();
        tokio::select! {
            () = listen(source, bytes, tell) => {}
            () = speak(sink, orders, parts) => {}
        }
        gone.send_modify(|state| {
            let settled = state.finished || state.stopped.is_some();
            if !(settled && state.ended) && state.failure.is_none() {
                state.failure = Some(StreamFailure::Node(String::new()));
            }
            state.gone = true;
        });
    });
    let reader = Reader {
        chunks,
        state: state.clone(),
        reads: Some(reads),
        ended: false,
        _open: out.clone(),
    };
    let writer =
        Writer { out: out.clone(), state: state.clone(), writes: Some(writes), finished: false };
    AgentStream {
        row,
        reader: AgentReader(super::Reader::Remote(reader)),
        writer: AgentWriter(super::Writer::Remote(writer)),
        watch: StreamWatch(super::Watch::Remote(Watch { out: out.downgrade(), state })),
    }
}

/// Takes what the node says, until it says no more.
async fn listen(
    mut source: SplitStream<Socket>,
    bytes: mpsc::Sender<Bytes>,
    tell: watch::Sender<State>,
) {
    let mut bytes = Some(bytes);
    let fail = |failure: StreamFailure| {
        tell.send_modify(|state| {
            state.failure.get_or_insert(failure);
        });
    };
    loop {
        let text = match source.next().await {
            Some(Ok(Message::Binary(chunk))) => {
                if let Some(reader) = &bytes
                    && reader.send(chunk).await.is_err()
                {
                    bytes = None;
                }
                continue;
            }
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(frame))) => {
                if let Some(frame) = frame.filter(|frame| frame.code != CloseCode::Normal) {
                    fail(StreamFailure::Node(frame.reason.to_string()));
                }
                return;
            }
            Some(Ok(_)) => continue,
            Some(Err(_)) | None => return,
        };
        match serde_json::from_str(text.as_str()) {
            Ok(StreamEvent::Progress(progress)) => {
                tell.send_modify(|state| state.progress = progress);
            }
            Ok(StreamEvent::End) => {
                // Known before the reader finds that there is nothing more.
                tell.send_modify(|state| state.ended = true);
                bytes = None;
            }
            Ok(StreamEvent::Finished) => tell.send_modify(|state| state.finished = true),
            Ok(StreamEvent::Stopped(stopped)) => {
                tell.send_modify(|state| state.stopped = Some(stopped.code));
            }
            Ok(StreamEvent::Reset(reset)) => fail(reset.into()),
            // Of a later version.
            Ok(StreamEvent::Stream(_)) | Err(_) => {}
        }
    }
}

/// Whether the program still reads and writes; each says its last word, and goes without one where it has none.
struct Parts {
    /// Its word: it reads no more, before the end.
    reader: oneshot::Receiver<()>,
    /// Its word: it has finished, or there was nobody to write to. Without it the program has gone before its end.
    writer: oneshot::Receiver<()>,
}

/// Sends what the program says, until all parts of the stream are gone, or the writing one before its end.
async fn speak<S>(mut sink: S, mut orders: mpsc::Receiver<Message>, parts: Parts)
where
    S: Sink<Message> + Unpin,
{
    let Parts { mut reader, mut writer } = parts;
    let (mut reads, mut writes) = (true, true);
    loop {
        let order = tokio::select! {
            biased;
            done = &mut writer, if writes => {
                if done.is_err() {
                    return;
                }
                writes = false;
                continue;
            }
            // Before what waits: the other side must not take bytes that are thrown away for read.
            gone = &mut reader, if reads => {
                reads = false;
                if gone.is_err() {
                    continue;
                }
                Some(order(&StreamOrder::Stop(StreamStop::default())))
            }
            order = orders.recv() => order,
        };
        let Some(order) = order else { return };
        let last = orders.is_empty();
        let sending = async {
            sink.feed(order).await?;
            if last { sink.flush().await } else { Ok(()) }
        };
        tokio::pin!(sending);
        let sent = loop {
            tokio::select! {
                biased;
                // A socket that is full must not keep it.
                done = &mut writer, if writes => {
                    if done.is_err() {
                        return;
                    }
                    writes = false;
                }
                sent = &mut sending => break sent,
            }
        };
        if sent.is_err() {
            // What the node has said before it went is still to be read.
            return std::future::pending().await;
        }
    }
}

fn order(order: &StreamOrder) -> Message {
    // These shapes have text keys only, which is all that JSON may refuse.
    Message::text(serde_json::to_string(order).unwrap_or_default())
}

fn gone(state: &watch::Receiver<State>) -> StreamFailure {
    let failure = state.borrow().failure.clone();
    failure.unwrap_or_else(|| StreamFailure::Node(String::new()))
}

#[derive(Debug)]
pub(super) struct Reader {
    chunks: mpsc::Receiver<Bytes>,
    state: watch::Receiver<State>,
    /// Dropped without a word: there is nothing to stop.
    reads: Option<oneshot::Sender<()>>,
    ended: bool,
    /// The stream is not over while it is read.
    _open: mpsc::Sender<Message>,
}

impl Reader {
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, StreamFailure> {
        if let Some(chunk) = self.chunks.recv().await {
            return Ok(Some(chunk));
        }
        // It ends with its word for why.
        let known = self.state.wait_for(|state| state.ended || state.failure.is_some()).await;
        self.ended = known.is_ok_and(|state| state.ended);
        if self.ended { Ok(None) } else { Err(gone(&self.state)) }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(reads) = self.reads.take()
            && !self.ended
        {
            let _ = reads.send(());
        }
    }
}

#[derive(Debug)]
pub(super) struct Writer {
    out: mpsc::Sender<Message>,
    state: watch::Receiver<State>,
    /// Dropped without a word: the program has gone before its end.
    writes: Option<oneshot::Sender<()>>,
    finished: bool,
}

impl Writer {
    async fn say(&mut self, message: Message) -> Result<(), StreamFailure> {
        let said = tokio::select! {
            biased;
            _ = self.state.wait_for(|state| state.gone || state.unwritable().is_some()) => false,
            said = self.out.send(message) => said.is_ok(),
        };
        if said {
            return Ok(());
        }
        let why = self.state.borrow().unwritable();
        Err(why.unwrap_or_else(|| gone(&self.state)))
    }

    pub(super) async fn write(&mut self, mut bytes: Bytes) -> Result<(), StreamFailure> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(MAX_MESSAGE));
            self.say(Message::Binary(piece)).await?;
        }
        Ok(())
    }

    pub(super) async fn finish(&mut self) -> Result<(), StreamFailure> {
        if !self.finished {
            self.finished = true;
            self.say(order(&StreamOrder::End)).await?;
        }
        Ok(())
    }

    pub(super) async fn finished(&self) -> Result<(), StreamFailure> {
        let mut state = self.state.clone();
        let known = state.wait_for(|s| s.finished || s.gone || s.unwritable().is_some()).await;
        match known {
            Ok(state) if state.finished => Ok(()),
            Ok(state) => Err(state.unwritable().unwrap_or(StreamFailure::Node(String::new()))),
            Err(_) => Err(gone(&self.state)),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let stopped = self.state.borrow().stopped.is_some();
        if let Some(writes) = self.writes.take()
            && (self.finished || stopped)
        {
            let _ = writes.send(());
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Watch {
    /// It keeps nothing open.
    out: mpsc::WeakSender<Message>,
    state: watch::Receiver<State>,
}

impl Watch {
    pub(super) fn progress(&self) -> StreamProgress {
        self.state.borrow().progress
    }

    pub(super) async fn reset(&self, code: u32, reason: &str) {
        let cancel = StreamCancel { code, reason: reason.to_owned() };
        let reset = order(&StreamOrder::Reset(cancel));
        let hurried = async {
            if let Some(out) = self.out.upgrade()
                && out.send(reset).await.is_ok()
            {
                self.over().await;
            }
        };
        let _ = timeout(HURRY, hurried).await;
    }

    pub(super) async fn over(&self) {
        let _ = self.state.clone().wait_for(|state| state.gone).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

    use super::*;

    #[tokio::test]
    async fn who_waits_for_ever_asks_again() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("node.sock");
        #[allow(clippy::disallowed_methods)] // this machine's own socket is no network
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let answers = [
            ("busy", "too_many_streams"),
            ("timeout", "no_stream"),
            ("timeout", "no_stream"),
            ("busy", "rate_limited"),
            ("denied", "capability_missing"),
            ("timeout", "no_stream"),
        ];
        let node = tokio::spawn(async move {
            let mut asked = Vec::new();
            for (kind, code) in answers {
                let mut stream = BufReader::new(listener.accept().await.unwrap().0);
                let mut line = String::new();
                stream.read_line(&mut line).await.unwrap();
                asked.push(line.clone());
                while line != "\r\n" {
                    line.clear();
                    stream.read_line(&mut line).await.unwrap();
                }
                let body = format!(r#"{{"kind": "{kind}", "code": "{code}", "message": ""}}"#);
                let head = format!("HTTP/1.1 504 No\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.write_all((head + &body).as_bytes()).await.unwrap();
            }
            asked
        });
        let client = Client::new(socket);
        let error = client.accept_stream(&AcceptStream::default()).await.unwrap_err();
        assert_eq!(error.code, "too_many_streams", "at first there must be room");
        let begun = Instant::now();
        let error = client.accept_stream(&AcceptStream::default()).await.unwrap_err();
        assert_eq!(error.code, "capability_missing", "neither patience nor room ends it");
        assert!(begun.elapsed() >= AGAIN, "a busy node is left alone");
        let ask = AcceptStream { timeout_ms: Some(60_000), ..AcceptStream::default() };
        assert_eq!(client.accept_stream(&ask).await.unwrap_err().code, "no_stream");
        let asked = node.await.unwrap();
        assert!(asked[..5].iter().all(|line| !line.contains("timeout_ms")), "{asked:?}");
        assert!(asked[5].contains("timeout_ms="), "{asked:?}");
    }

    #[tokio::test]
    async fn a_stop_is_said_though_the_queue_is_full() {
        let (near, far) = tokio::io::duplex(64);
        let near = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
        let mut far = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
        let (out, orders) = mpsc::channel(WAITING);
        let bytes = Message::binary(vec![1; 1000]);
        while out.try_send(bytes.clone()).is_ok() {}
        let (reads, reader) = oneshot::channel();
        let (writes, writer) = oneshot::channel();
        let (_, chunks) = mpsc::channel(1);
        let (_, state) = watch::channel(State::default());
        drop(Reader { chunks, state, reads: Some(reads), ended: false, _open: out });
        let speaking = tokio::spawn(speak(near, orders, Parts { reader, writer }));
        let stop = order(&StreamOrder::Stop(StreamStop::default()));
        assert_eq!(far.next().await.unwrap().unwrap(), stop);
        for _ in 0..WAITING {
            assert_eq!(far.next().await.unwrap().unwrap(), bytes);
        }
        // Nothing is left that could say more.
        speaking.await.unwrap();
        drop(writes);
    }

    #[tokio::test]
    async fn who_goes_before_the_end_is_not_kept_by_a_full_socket() {
        let (near, mut far) = tokio::io::duplex(64);
        let near = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
        let (out, orders) = mpsc::channel(WAITING);
        out.try_send(Message::binary(vec![1; 1000])).unwrap();
        let (_reads, reader) = oneshot::channel();
        let (writes, writer) = oneshot::channel();
        let speaking = tokio::spawn(speak(near, orders, Parts { reader, writer }));
        // It has begun, and nobody reads on.
        far.read_u8().await.unwrap();
        drop(writes);
        speaking.await.unwrap();
    }
}
