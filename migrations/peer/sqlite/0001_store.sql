-- A node's store. One file holds every mesh of the node. Times are Unix milliseconds; keys and
-- hashes are raw bytes; targets and chains are MessagePack. Applied migrations never change: what
-- comes later is a new file.

CREATE TABLE mesh (
    mesh        BLOB NOT NULL PRIMARY KEY CHECK (length(mesh) = 32),
    name        TEXT NOT NULL,
    broker_url  TEXT NOT NULL,
    broker_key  BLOB NOT NULL CHECK (length(broker_key) = 32),
    pin         BLOB CHECK (length(pin) = 32),
    chain       BLOB NOT NULL,
    self_key    BLOB NOT NULL CHECK (length(self_key) = 32),
    self_name   TEXT NOT NULL,
    role        TEXT NOT NULL,
    joined_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The outbox's identity and how often it has said hello.
CREATE TABLE instance (
    mesh          BLOB NOT NULL PRIMARY KEY REFERENCES mesh ON DELETE CASCADE,
    instance      BLOB NOT NULL CHECK (length(instance) = 16),
    hello_counter INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- The last number given out per counter.
CREATE TABLE seq (
    mesh     BLOB NOT NULL REFERENCES mesh ON DELETE CASCADE,
    author   BLOB NOT NULL,
    instance BLOB NOT NULL,
    target   BLOB NOT NULL,
    priority TEXT NOT NULL,
    last     INTEGER NOT NULL CHECK (last >= 1),
    PRIMARY KEY (mesh, author, instance, target, priority)
) STRICT, WITHOUT ROWID;

CREATE TABLE outbox (
    row             INTEGER PRIMARY KEY AUTOINCREMENT,
    mesh            BLOB NOT NULL REFERENCES mesh ON DELETE CASCADE,
    id              TEXT NOT NULL CHECK (length(id) = 26),
    author          BLOB NOT NULL CHECK (length(author) = 32),
    instance        BLOB NOT NULL CHECK (length(instance) = 16),
    target          BLOB NOT NULL,
    target_text     TEXT NOT NULL, -- the target for people with a SQL shell
    recipient       BLOB NOT NULL CHECK (length(recipient) = 32),
    peer_name       TEXT NOT NULL,
    priority        TEXT NOT NULL,
    seq             INTEGER NOT NULL CHECK (seq >= 1),
    hash            BLOB NOT NULL CHECK (length(hash) = 32),
    envelope        BLOB NOT NULL,
    state           TEXT NOT NULL CHECK (state IN
        ('pending', 'inflight', 'relayed', 'sent', 'delivered', 'expired', 'failed', 'aborted')),
    reason          TEXT,
    path            TEXT,
    attempts        INTEGER NOT NULL DEFAULT 0,
    next_attempt_at INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    expires_at      INTEGER NOT NULL,
    accepted_at     INTEGER,
    delivered_at    INTEGER,
    idempotency_key TEXT,
    fingerprint     BLOB CHECK (length(fingerprint) = 32),
    superseded_by   TEXT,
    UNIQUE (mesh, id),
    UNIQUE (mesh, idempotency_key),
    CHECK ((idempotency_key IS NULL) = (fingerprint IS NULL))
) STRICT;

CREATE INDEX outbox_pending ON outbox (mesh, row) WHERE state = 'pending';
CREATE INDEX outbox_waiting ON outbox (mesh, author, instance, target, priority, row)
    WHERE state = 'pending';
-- The lowest number that may still be delivered, and rows past their time.
CREATE INDEX outbox_floor ON outbox (mesh, author, instance, target, priority, seq)
    WHERE state IN ('pending', 'inflight', 'relayed', 'sent');
CREATE INDEX outbox_expiry ON outbox (expires_at)
    WHERE state IN ('pending', 'inflight', 'relayed', 'sent');
CREATE INDEX outbox_id ON outbox (id);
CREATE INDEX outbox_inflight ON outbox (mesh) WHERE state = 'inflight';

-- A second line behind core::outbox::advance: what the recipient said is never unsaid.
CREATE TRIGGER outbox_delivered_is_final BEFORE UPDATE OF state ON outbox
    WHEN OLD.state IN ('delivered', 'aborted') AND NEW.state <> OLD.state
BEGIN
    SELECT RAISE(ABORT, 'a delivered or aborted message keeps its state');
END;

-- Ids that came in; outlives the inbox row, so that a deleted message does not come back.
CREATE TABLE seen (
    mesh       BLOB NOT NULL REFERENCES mesh ON DELETE CASCADE,
    author     BLOB NOT NULL,
    id         TEXT NOT NULL,
    hash       BLOB NOT NULL CHECK (length(hash) = 32),
    keep_until INTEGER NOT NULL,
    PRIMARY KEY (mesh, author, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX seen_expiry ON seen (keep_until);

CREATE TABLE inbox (
    row            INTEGER PRIMARY KEY AUTOINCREMENT,
    mesh           BLOB NOT NULL REFERENCES mesh ON DELETE CASCADE,
    author         BLOB NOT NULL CHECK (length(author) = 32),
    id             TEXT NOT NULL CHECK (length(id) = 26),
    hash           BLOB NOT NULL CHECK (length(hash) = 32),
    member         BLOB NOT NULL CHECK (length(member) = 32),
    author_name    TEXT NOT NULL,
    recipient      BLOB NOT NULL CHECK (length(recipient) = 32),
    channel        TEXT NOT NULL,
    priority       TEXT NOT NULL,
    kind           TEXT NOT NULL,
    content        BLOB NOT NULL,
    reply_to       TEXT,
    instance       BLOB NOT NULL CHECK (length(instance) = 16),
    seq            INTEGER NOT NULL,
    floor          INTEGER NOT NULL,
    target         BLOB NOT NULL,
    sent_at        INTEGER NOT NULL,
    received_at    INTEGER NOT NULL,
    surfaced_order INTEGER UNIQUE,
    surfaced_at    INTEGER,
    seen_at        INTEGER,
    UNIQUE (mesh, author, id)
) STRICT;

CREATE INDEX inbox_unread ON inbox (surfaced_order) WHERE seen_at IS NULL;
CREATE INDEX inbox_id ON inbox (id);

-- The last place given out in the order of surfacing; not taken from the inbox, whose last row may
-- have been deleted.
CREATE TABLE surface_order (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    last INTEGER NOT NULL
) STRICT;

INSERT INTO surface_order (only, last) VALUES (1, 0);

-- The highest number surfaced per counter of a sender.
CREATE TABLE order_cursor (
    mesh       BLOB NOT NULL REFERENCES mesh ON DELETE CASCADE,
    author     BLOB NOT NULL,
    instance   BLOB NOT NULL,
    target     BLOB NOT NULL,
    priority   TEXT NOT NULL,
    last       INTEGER NOT NULL,
    touched_at INTEGER NOT NULL,
    PRIMARY KEY (mesh, author, instance, target, priority)
) STRICT, WITHOUT ROWID;

CREATE INDEX order_cursor_touched ON order_cursor (touched_at);

CREATE TABLE roster (
    mesh          BLOB NOT NULL REFERENCES mesh ON DELETE CASCADE,
    key           BLOB NOT NULL CHECK (length(key) = 32),
    name          TEXT NOT NULL,
    role          TEXT NOT NULL,
    chain         BLOB NOT NULL,
    fingerprint   BLOB NOT NULL CHECK (length(fingerprint) = 32),
    first_seen_at INTEGER NOT NULL,
    PRIMARY KEY (mesh, key)
) STRICT;

CREATE INDEX roster_name ON roster (name);
CREATE INDEX roster_key ON roster (key);

-- Which key a name belonged to at first contact.
CREATE TABLE pin_name (
    mesh      BLOB NOT NULL REFERENCES mesh ON DELETE CASCADE,
    name      TEXT NOT NULL,
    key       BLOB NOT NULL CHECK (length(key) = 32),
    pinned_at INTEGER NOT NULL,
    PRIMARY KEY (mesh, name)
) STRICT, WITHOUT ROWID;
