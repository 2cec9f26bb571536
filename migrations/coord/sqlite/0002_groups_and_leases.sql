-- What a member says of itself (MessagePack), and whether it wants to be listed.
ALTER TABLE members ADD COLUMN about BLOB;
ALTER TABLE members ADD COLUMN hidden INTEGER NOT NULL DEFAULT 0;
CREATE INDEX members_listed ON members (mesh, hidden, key);

-- A member's last word about each group (MessagePack of the signed statement). Leaves stay, so that
-- an old join cannot come back.
CREATE TABLE group_statements (
    mesh      BLOB NOT NULL,
    member    BLOB NOT NULL,
    name      TEXT NOT NULL,
    role      TEXT,
    joined    INTEGER NOT NULL,
    at        INTEGER NOT NULL,
    statement BLOB NOT NULL,
    PRIMARY KEY (mesh, member, name)
) WITHOUT ROWID;
CREATE INDEX groups_joined ON group_statements (mesh, joined, name, member);

-- Presence that outlives connections and restarts. `about` and `features` are the broker's own
-- encoding, `attestation` the MessagePack of the signed one.
CREATE TABLE leases (
    mesh        BLOB NOT NULL,
    key         BLOB NOT NULL,
    member      BLOB NOT NULL,
    kind        TEXT NOT NULL,
    instance    BLOB NOT NULL,
    lease       BLOB NOT NULL,
    since       INTEGER NOT NULL,
    about       BLOB NOT NULL,
    attestation BLOB,
    features    BLOB NOT NULL,
    PRIMARY KEY (mesh, key)
) WITHOUT ROWID;

-- When a session or service was last ended: its member's word from before that counts no more.
ALTER TABLE delegates ADD COLUMN ended_at INTEGER NOT NULL DEFAULT 0;
CREATE INDEX delegates_of_member ON delegates (mesh, member, expires_at);

-- For mail by sessions and services: the attestation that it was accepted with.
ALTER TABLE bodies ADD COLUMN attestation BLOB;

-- The recipient's own wrap of a group send's key, while it waits.
ALTER TABLE deliveries ADD COLUMN wrap BLOB;
-- The author's member: all identities of one member share its part of a mailbox.
ALTER TABLE deliveries ADD COLUMN member BLOB;
UPDATE deliveries SET member = author;
DROP INDEX deliveries_by_author;
-- With all that counting reads, so that it reads nothing else.
CREATE INDEX deliveries_by_member ON deliveries (mesh, recipient, member, expires_at, state)
    WHERE state = 0;
-- Whether an envelope still waits for anybody, without a walk over thousands of recipients.
CREATE INDEX deliveries_open ON deliveries (seq) WHERE state = 0;
