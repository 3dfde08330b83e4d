"""Load of SQLite with `PRAGMA synchronous = FULL`: a transaction whose COMMIT returned is there after a kill.

SQLite maps memory of its files in WAL mode, and who touches a page of a dead mount is killed (SIGBUS). So the
transactions run in a child, which tells each commit through a pipe.
"""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing

from tests.torture.steps import Died, Log, Lost, digest

MODES = ("WAL", "DELETE", "TRUNCATE", "PERSIST")
ROWS_MAX = 4  # of a transaction
TRANSACTIONS_MAX = 2000  # of a database; then comes a new one
DEAD_MESSAGES = ("disk I/O error", "unable to open database file", "database is locked", "attempt to write a readonly")


class Transactions:
    """Invariant: `acknowledged` is the number of the last transaction of `path` whose commit was told."""

    def __init__(self, root: str, log: Log, seed: str) -> None:
        self.root = root
        self.log = log
        self.figures = {"commits": 0}
        self.chance = random.Random(seed)
        self.databases: list[tuple[str, int]] = []  # finished ones, with their number of transactions
        self._new_database()

    def _new_database(self) -> None:
        self.mode = self.chance.choice(MODES)
        self.path = os.path.join(self.root, f"{len(self.databases)}-{self.mode.lower()}.db")
        self.acknowledged = 0
        self.log.write(f"database {self.path}")

    def work(self) -> None:
        """Some transactions in one connection of a child. Raises Died, Lost."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            code = 1
            try:
                code = _transact(self.path, self.mode, self.acknowledged, self.chance.randrange(1, 60), writer)
            finally:
                os._exit(code)
        os.close(writer)
        with open(reader) as told:
            words = told.read().split("\n")
        _, status = os.waitpid(child, 0)
        for word in words:
            if word.isdigit():
                self.acknowledged = int(word)
                self.figures["commits"] += 1
                self.log.write(f"commit {word}")
        self.chance.random()
        code = os.waitstatus_to_exitcode(status)
        if code:
            problem = " ".join(word for word in words if word and not word.isdigit())
            self.log.write(f"ended with {code}: {problem}")
            if code > 0 and not any(message in problem for message in DEAD_MESSAGES):
                raise Lost(f"{self.path}: {problem or f'a child ended with {code}'}")
            raise Died(f"a transaction: {problem or f'signal {-code}'}")

    def rest(self) -> None:
        """Nothing is open between two operations."""

    def verify(self, *, everything: bool) -> None:
        self.acknowledged = self._verify(self.path, self.acknowledged)
        for path, count in self.databases if everything else ():
            self._verify(path, count)
        if self.acknowledged > TRANSACTIONS_MAX:
            self.databases.append((self.path, self.acknowledged))
            self._new_database()

    def _verify(self, path: str, acknowledged: int) -> int:
        """Returns how many transactions there are: one more, perhaps, than were acknowledged."""
        if not os.path.exists(path):
            if acknowledged:
                raise Lost(f"{path} is gone, with {acknowledged} acknowledged transactions")
            return 0
        try:
            found = count_transactions(path)
        except (sqlite3.Error, Lost) as error:
            raise Lost(f"{path}, with {acknowledged} acknowledged transactions: {error}") from error
        if found not in (acknowledged, acknowledged + 1):
            raise Lost(f"{path} has {found} transactions, and {acknowledged} were acknowledged")
        return found


def count_transactions(path: str) -> int:
    """How many transactions a database holds, all whole. Raises Lost if it is not sound, sqlite3.Error."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        sound = database.execute("PRAGMA integrity_check").fetchone()[0]
        if sound != "ok":
            raise Lost(f"integrity_check says {sound}")
        if not database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'rows'").fetchone()[0]:
            return 0
        rows = database.execute("SELECT number, row, of, data, digest FROM rows ORDER BY number, row").fetchall()
    if any(digest(data) != said for _, _, _, data, said in rows):
        raise Lost("a row does not hold what was written")
    wholes: dict[int, set[int]] = {}
    sizes: dict[int, int] = {}
    for number, row, of, _, _ in rows:
        wholes.setdefault(number, set()).add(row)
        sizes[number] = of
    if any(found != set(range(sizes[number])) for number, found in wholes.items()):
        raise Lost("a transaction is there in part")
    if sorted(wholes) != list(range(1, len(wholes) + 1)):
        raise Lost("a transaction is missing between others")
    return len(wholes)


def connect(path: str, mode: str) -> sqlite3.Connection:
    """A connection that makes each COMMIT durable."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA synchronous = FULL")
    database.execute(f"PRAGMA journal_mode = {mode}")
    database.execute("PRAGMA wal_autocheckpoint = 50")
    return database


def transact(database: sqlite3.Connection, number: int, chance: random.Random) -> None:
    """One transaction of a few rows."""
    database.execute("BEGIN IMMEDIATE")
    of = chance.randrange(1, ROWS_MAX + 1)
    for row in range(of):
        data = chance.randbytes(chance.choice((10, 200, 6000)))
        database.execute("INSERT INTO rows VALUES (?, ?, ?, ?, ?)", (number, row, of, data, digest(data)))
    if number > 1 and chance.random() < 0.3:  # pages in the middle of the file change too
        data = chance.randbytes(150)
        changed = (data, digest(data), chance.randrange(1, number))
        database.execute("UPDATE rows SET data = ?, digest = ? WHERE number = ? AND row = 0", changed)
    database.execute("COMMIT")


CREATE = "CREATE TABLE IF NOT EXISTS rows (number, row, of, data, digest, PRIMARY KEY (number, row))"


def _transact(path: str, mode: str, last: int, count: int, told: int) -> int:
    """The child: transactions behind number *last*, each told when its COMMIT returned. Returns its exit code."""
    chance = random.Random(f"{path} {last} {count}")
    tell: Callable[[str], int] = lambda text: os.write(told, f"{text}\n".encode())  # noqa: E731
    try:
        database = connect(path, mode)
        database.execute(CREATE)
        for number in range(last + 1, last + count + 1):
            transact(database, number, chance)
            tell(str(number))
        database.close()
    except (sqlite3.Error, OSError) as error:
        tell(str(error))
        return 1
    return 0
