"""The statements by which a purge finds what is to go: see `purge`.

doomed   tags that go: (host, port, repository, tag), each with a digest that it names
chosen   contents that are meant; `forced`: by their digest, so they go whatever names them
reach    these, and what they name
gone     of reach, what goes
unplaced content that stays, and is not known any more in a repository: (host, port, repository, digest)
"""

from __future__ import annotations

from typing import Final

_KEY: Final = "host TEXT NOT NULL, port INTEGER NOT NULL, repository TEXT NOT NULL"
_CONTENTS: Final = "(digest TEXT NOT NULL PRIMARY KEY, forced INTEGER NOT NULL) WITHOUT ROWID"

TABLES: Final = (
    *(f"DROP TABLE IF EXISTS temp.{table}" for table in ("doomed", "chosen", "reach", "gone", "unplaced")),
    f"CREATE TEMP TABLE doomed ({_KEY}, tag TEXT NOT NULL, digest TEXT NOT NULL, forced INTEGER NOT NULL,"
    " PRIMARY KEY (host, port, repository, tag, digest)) WITHOUT ROWID",
    "CREATE INDEX temp.doomed_digests ON doomed (digest)",
    f"CREATE TEMP TABLE unplaced ({_KEY}, digest TEXT NOT NULL, PRIMARY KEY (host, port, repository, digest))"
    " WITHOUT ROWID",
    *(f"CREATE TEMP TABLE {table} {_CONTENTS}" for table in ("chosen", "reach", "gone")),
)

# Conditions

THIS_TAG: Final = " AND host = ? AND port = ? AND repository = ? AND tag = ?"
OF_CONTENT: Final = " AND EXISTS (SELECT 1 FROM objects WHERE objects.digest = tags.digest AND {conditions})"
KNOWN_THERE: Final = (
    " AND EXISTS (SELECT 1 FROM tags INDEXED BY tags_by_digest WHERE tags.digest = objects.digest{place})"
)
IN_DOOMED_REPOSITORY: Final = (
    "EXISTS (SELECT 1 FROM doomed WHERE doomed.host = tags.host AND doomed.port = tags.port"
    " AND doomed.repository = tags.repository)"
)
_PINNED: Final = "EXISTS (SELECT 1 FROM pins WHERE pins.digest = {table}.digest)"
_SAME_TAG: Final = (
    "doomed.host = tags.host AND doomed.port = tags.port AND doomed.repository = tags.repository"
    " AND doomed.tag = tags.tag"
)

# What is meant

DOOM: Final = (
    "INSERT OR IGNORE INTO doomed SELECT host, port, repository, tag, digest, 0 FROM tags"
    " INDEXED BY images_by_name WHERE tag NOT GLOB '*:*'{more}"
)
# A tag stays if only some of what it is was not used for long.
SPARE_OTHER_VARIANTS: Final = (
    "DELETE FROM doomed WHERE EXISTS (SELECT 1 FROM tags WHERE"
    f" {_SAME_TAG} AND variant NOT GLOB 'former *' AND NOT EXISTS (SELECT 1 FROM doomed AS other"
    " WHERE other.host = tags.host AND other.port = tags.port AND other.repository = tags.repository"
    " AND other.tag = tags.tag AND other.digest = tags.digest))"
)
DOOM_TAGS_OF_DIGESTS: Final = (
    "INSERT OR IGNORE INTO doomed SELECT host, port, repository, tag, chosen.digest, 1 FROM chosen"
    " JOIN tags INDEXED BY tags_by_digest ON tags.digest = chosen.digest"
    " WHERE forced AND tag NOT GLOB '*:*'"
)
PINNED_TAGS: Final = (
    f"SELECT DISTINCT host, port, repository, tag FROM doomed WHERE {_PINNED.format(table='doomed')} LIMIT ?"
)
SPARE_PINNED: Final = (
    "DELETE FROM doomed WHERE (host, port, repository, tag) IN (SELECT host, port, repository, tag"
    f" FROM doomed WHERE {_PINNED.format(table='doomed')})"
)
CHOOSE_TAGGED: Final = "INSERT OR IGNORE INTO chosen SELECT DISTINCT digest, 0 FROM doomed"
CHOOSE_DIGEST: Final = "INSERT OR REPLACE INTO chosen SELECT digest, 1 FROM objects WHERE digest = ?{more}"
CHOOSE_OBJECTS: Final = "INSERT OR IGNORE INTO chosen SELECT digest, 0 FROM objects WHERE 1{more}"
# Content that is known in the places that are meant, though no tag there names it.
CHOOSE_PRESENT: Final = (
    "INSERT OR IGNORE INTO chosen SELECT DISTINCT tags.digest, 0 FROM tags"
    " JOIN objects ON objects.digest = tags.digest WHERE variant = 'presence' AND named{more}"
)

# What goes

REACH: Final = (
    "INSERT INTO reach WITH RECURSIVE below (digest, forced) AS (SELECT digest, forced FROM chosen UNION"
    " SELECT child, 0 FROM below JOIN links ON parent = below.digest)"
    " SELECT digest, max(forced) FROM below WHERE digest IN (SELECT digest FROM objects) GROUP BY digest"
)
GO: Final = "INSERT INTO gone SELECT digest, forced FROM reach"
STAY_PINNED: Final = f"DELETE FROM gone WHERE {_PINNED.format(table='gone')}"
STAY_TAGGED: Final = (
    "DELETE FROM gone WHERE NOT forced AND EXISTS (SELECT 1 FROM tags INDEXED BY tags_by_digest"
    " WHERE tags.digest = gone.digest AND tag NOT GLOB '*:*' AND NOT EXISTS (SELECT 1 FROM doomed"
    f" WHERE {_SAME_TAG} AND doomed.digest = tags.digest))"
)
STAY_ELSEWHERE: Final = (
    "DELETE FROM gone WHERE NOT forced AND digest IN (SELECT digest FROM manifests)"
    " AND EXISTS (SELECT 1 FROM tags INDEXED BY tags_by_digest WHERE tags.digest = gone.digest"
    " AND variant = 'presence' AND named AND NOT {meant})"
)
# Repeated until nothing is left that has to stay.
STAY_NAMED: Final = (
    "DELETE FROM gone WHERE NOT forced AND EXISTS (SELECT 1 FROM links WHERE child = gone.digest"
    " AND parent NOT IN (SELECT digest FROM gone))"
)
LEAVE: Final = (
    "INSERT OR IGNORE INTO unplaced SELECT host, port, repository, tags.digest FROM tags"
    " JOIN reach ON reach.digest = tags.digest WHERE variant = 'presence'{more}"
    " AND reach.digest NOT IN (SELECT digest FROM gone) AND NOT " + _PINNED.format(table="reach")
)

# What is told of it

KEPT: Final = (
    f"SELECT digest, {_PINNED.format(table='reach')} FROM reach"
    " WHERE digest NOT IN (SELECT digest FROM gone) ORDER BY 2 DESC, 1 LIMIT ?"
)
SUMS: Final = (
    "SELECT count(*), coalesce(sum(size), 0), coalesce(sum(disk), 0) FROM gone JOIN objects USING (digest)"
)
COUNT_TAGS: Final = "SELECT count(*) FROM (SELECT DISTINCT host, port, repository, tag FROM doomed)"
DOOMED_TAGS: Final = "SELECT DISTINCT host, port, repository, tag FROM doomed LIMIT ?"

OTHER_PORTS: Final = (
    "SELECT DISTINCT port FROM tags INDEXED BY images_by_name WHERE tag NOT GLOB '*:*'"
    " AND host = ? AND port != ? AND repository = ? LIMIT 5"
)

# How it is removed. Tags of which only the content goes that was meant by its digest go with that.

NEXT_TAGS: Final = (
    "SELECT DISTINCT host, port, repository, tag FROM doomed WHERE NOT forced"
    " AND (host, port, repository, tag) > (?, ?, ?, ?) ORDER BY host, port, repository, tag LIMIT ?"
)
NEXT_PLACES: Final = (
    "SELECT host, port, repository, digest FROM unplaced"
    " WHERE (host, port, repository, digest) > (?, ?, ?, ?)"
    " ORDER BY host, port, repository, digest LIMIT ?"
)
NEXT_MANIFESTS: Final = (
    "SELECT digest FROM gone WHERE digest > ? AND digest IN (SELECT digest FROM manifests)"
    f" AND NOT {_PINNED.format(table='gone')} ORDER BY digest LIMIT ?"
)
# Asked when it is due: a manifest that was stored meanwhile may name it.
NEXT_CONTENTS: Final = (
    "SELECT digest FROM gone WHERE digest > ? AND digest IN (SELECT digest FROM objects)"
    " AND (forced OR NOT EXISTS (SELECT 1 FROM links WHERE child = gone.digest))"
    f" AND NOT {_PINNED.format(table='gone')} ORDER BY digest LIMIT ?"
)
