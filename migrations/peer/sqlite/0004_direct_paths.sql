-- What direct paths took and nobody acked: it goes out again when a path is lost, and at start.

CREATE INDEX outbox_sent ON outbox (mesh) WHERE state = 'sent';
