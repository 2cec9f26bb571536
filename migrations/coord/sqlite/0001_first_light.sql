-- Times are Unix milliseconds. Keys and hashes are raw bytes, envelope ids their ULID text.

CREATE TABLE meshes (
    mesh       BLOB PRIMARY KEY,
    name       TEXT NOT NULL,
    owner      BLOB NOT NULL,
    created_at INTEGER NOT NULL
) WITHOUT ROWID;

-- Everyone who was ever admitted; `chain` is the MessagePack of the certificate chain.
CREATE TABLE members (
    mesh      BLOB NOT NULL REFERENCES meshes (mesh),
    key       BLOB NOT NULL,
    name      TEXT NOT NULL,
    role      TEXT NOT NULL,
    chain     BLOB NOT NULL,
    invite    BLOB,
    joined_at INTEGER NOT NULL,
    seen_at   INTEGER,
    PRIMARY KEY (mesh, key)
) WITHOUT ROWID;
CREATE UNIQUE INDEX member_names ON members (mesh, name);
CREATE INDEX member_invites ON members (invite) WHERE invite IS NOT NULL;

-- The last hello counter of each outbox instance: one that does not grow is a copied home.
CREATE TABLE instances (
    mesh     BLOB NOT NULL,
    key      BLOB NOT NULL,
    instance BLOB NOT NULL,
    counter  INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    PRIMARY KEY (mesh, key, instance)
) WITHOUT ROWID;

-- Sessions and services that were bound: mail to them is accepted until the attestation ends.
CREATE TABLE delegates (
    mesh       BLOB NOT NULL,
    key        BLOB NOT NULL,
    member     BLOB NOT NULL,
    kind       TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (mesh, key)
) WITHOUT ROWID;

CREATE INDEX delegates_expiry ON delegates (expires_at);
CREATE INDEX instances_age ON instances (at);

CREATE TABLE invites (
    invite     BLOB PRIMARY KEY,
    mesh       BLOB NOT NULL REFERENCES meshes (mesh),
    issuer     BLOB NOT NULL,
    capability BLOB NOT NULL,
    uses       INTEGER NOT NULL,
    used       INTEGER NOT NULL DEFAULT 0,
    expires_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) WITHOUT ROWID;
CREATE INDEX invites_of_mesh ON invites (mesh, created_at);

-- One row per accepted envelope: the deduplication key. Outlives the body until the envelope
-- expires, when the same envelope would be refused anyway.
CREATE TABLE accepted (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    mesh        BLOB NOT NULL,
    author      BLOB NOT NULL,
    id          TEXT NOT NULL,
    hash        BLOB NOT NULL,
    accepted_at INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    UNIQUE (mesh, author, id)
);
CREATE INDEX accepted_expiry ON accepted (expires_at);

-- The envelope, stored once however many recipients it has.
CREATE TABLE bodies (
    seq      INTEGER PRIMARY KEY REFERENCES accepted (seq) ON DELETE CASCADE,
    envelope BLOB NOT NULL
);

-- One row per recipient. state: 0 waiting, 1 delivered, 2 refused, 3 gone, 4 expired.
CREATE TABLE deliveries (
    seq         INTEGER NOT NULL REFERENCES accepted (seq) ON DELETE CASCADE,
    recipient   BLOB NOT NULL,
    mesh        BLOB NOT NULL,
    author      BLOB NOT NULL,
    priority    INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    state       INTEGER NOT NULL DEFAULT 0,
    attempt     INTEGER NOT NULL DEFAULT 0,
    claim       INTEGER,
    claim_until INTEGER NOT NULL DEFAULT 0,
    receipt     BLOB,
    confirmed   INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (seq, recipient)
) WITHOUT ROWID;
CREATE INDEX deliveries_waiting ON deliveries (mesh, recipient, priority, seq) WHERE state = 0;
CREATE INDEX deliveries_by_author ON deliveries (mesh, recipient, author) WHERE state = 0;
CREATE INDEX deliveries_claimed ON deliveries (claim) WHERE claim IS NOT NULL;
CREATE INDEX receipts_waiting ON deliveries (mesh, author) WHERE receipt IS NOT NULL AND confirmed = 0;
CREATE INDEX deliveries_expiry ON deliveries (expires_at) WHERE state = 0;

-- Broker-wide values: the admin token's digest.
CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID;
