-- Sessions, what our identities say of themselves, groups, and mail to many.

-- Sessions of this node that run, or have ended (see session_ended) and whose mail has not settled or
-- whose end the broker has not heard of; their keys are in the keyring.
CREATE TABLE session (
    mesh          BLOB NOT NULL REFERENCES mesh ON DELETE CASCADE,
    key           BLOB NOT NULL CHECK (length(key) = 32),
    name          TEXT NOT NULL,
    capabilities  BLOB NOT NULL,
    pid           INTEGER NOT NULL,
    process_start INTEGER NOT NULL,
    token_hash    BLOB NOT NULL UNIQUE CHECK (length(token_hash) = 32),
    started_at    INTEGER NOT NULL,
    PRIMARY KEY (mesh, key)
) STRICT, WITHOUT ROWID;

-- Sessions that ended: mail for them is answered with that.
CREATE TABLE session_ended (
    mesh BLOB NOT NULL REFERENCES mesh ON DELETE CASCADE,
    key  BLOB NOT NULL CHECK (length(key) = 32),
    at   INTEGER NOT NULL,
    PRIMARY KEY (mesh, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX session_ended_at ON session_ended (at);

CREATE TABLE presence (
    mesh         BLOB NOT NULL REFERENCES mesh ON DELETE CASCADE,
    key          BLOB NOT NULL CHECK (length(key) = 32),
    status       TEXT NOT NULL,
    status_until INTEGER,
    summary      TEXT,
    profile      BLOB,
    visible      INTEGER NOT NULL CHECK (visible IN (0, 1)),
    PRIMARY KEY (mesh, key)
) STRICT, WITHOUT ROWID;

-- The newest statement per member and group. Who has left stays, so that an older statement does
-- not bring it back.
CREATE TABLE group_member (
    mesh      BLOB NOT NULL REFERENCES mesh ON DELETE CASCADE,
    member    BLOB NOT NULL CHECK (length(member) = 32),
    name      TEXT NOT NULL,
    role      TEXT,
    joined    INTEGER NOT NULL CHECK (joined IN (0, 1)),
    at        INTEGER NOT NULL,
    statement BLOB NOT NULL,
    PRIMARY KEY (mesh, member, name)
) STRICT, WITHOUT ROWID;

-- The member behind the recipient, where that is a session or service.
ALTER TABLE outbox ADD COLUMN member BLOB CHECK (length(member) = 32);

-- The recipients of a group's message. Who is open stands where the message stands.
CREATE TABLE outbox_recipient (
    row       INTEGER NOT NULL REFERENCES outbox ON DELETE CASCADE,
    recipient BLOB NOT NULL CHECK (length(recipient) = 32),
    name      TEXT NOT NULL,
    state     TEXT NOT NULL DEFAULT 'open'
        CHECK (state IN ('open', 'delivered', 'expired', 'failed')),
    reason    TEXT,
    at        INTEGER,
    PRIMARY KEY (row, recipient)
) STRICT, WITHOUT ROWID;

CREATE INDEX outbox_recipient_open ON outbox_recipient (row) WHERE state = 'open';

CREATE TRIGGER outbox_recipient_delivered_is_final BEFORE UPDATE OF state ON outbox_recipient
    WHEN OLD.state = 'delivered' AND NEW.state <> OLD.state
BEGIN
    SELECT RAISE(ABORT, 'a delivered message keeps its state');
END;

-- What sessions have read; the member's own reading is in inbox.seen_at.
CREATE TABLE inbox_seen (
    row     INTEGER NOT NULL REFERENCES inbox ON DELETE CASCADE,
    viewer  BLOB NOT NULL CHECK (length(viewer) = 32),
    seen_at INTEGER NOT NULL,
    PRIMARY KEY (row, viewer)
) STRICT, WITHOUT ROWID;

CREATE INDEX inbox_seen_viewer ON inbox_seen (viewer);
