"""How many notifications wait and are given up, kept by the database itself; and what finds one among a million that wait."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

COUNT = """
    INSERT INTO backlog
    SELECT receiver, count(CASE WHEN waiting THEN 1 END), count(dead) FROM notifications GROUP BY receiver
"""
# A count that is kept wherever a notification changes cannot be forgotten by a statement that is added later.
SQLITE = (
    """
    CREATE TRIGGER notification_put AFTER INSERT ON notifications BEGIN
      INSERT INTO backlog (receiver, waiting, dead) VALUES (NEW.receiver, NEW.waiting, NEW.dead IS NOT NULL)
      ON CONFLICT (receiver) DO UPDATE SET waiting = waiting + excluded.waiting, dead = dead + excluded.dead;
    END
    """,
    """
    CREATE TRIGGER notification_changed AFTER UPDATE OF waiting, dead ON notifications
    WHEN NEW.waiting <> OLD.waiting OR (NEW.dead IS NULL) <> (OLD.dead IS NULL) BEGIN
      UPDATE backlog SET
        waiting = waiting + NEW.waiting - OLD.waiting, dead = dead + (NEW.dead IS NOT NULL) - (OLD.dead IS NOT NULL)
      WHERE receiver = NEW.receiver;
    END
    """,
    """
    CREATE TRIGGER notification_deleted AFTER DELETE ON notifications WHEN OLD.waiting OR OLD.dead IS NOT NULL BEGIN
      UPDATE backlog SET waiting = waiting - OLD.waiting, dead = dead - (OLD.dead IS NOT NULL) WHERE receiver = OLD.receiver;
    END
    """,
)
POSTGRESQL = (
    """
    CREATE FUNCTION count_backlog() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      IF TG_OP = 'INSERT' THEN
        INSERT INTO backlog (receiver, waiting, dead) VALUES (NEW.receiver, NEW.waiting::int, (NEW.dead IS NOT NULL)::int)
        ON CONFLICT (receiver) DO UPDATE SET waiting = backlog.waiting + excluded.waiting, dead = backlog.dead + excluded.dead;
      ELSIF TG_OP = 'UPDATE' THEN
        UPDATE backlog SET
          waiting = waiting + NEW.waiting::int - OLD.waiting::int,
          dead = dead + (NEW.dead IS NOT NULL)::int - (OLD.dead IS NOT NULL)::int
        WHERE receiver = NEW.receiver AND (NEW.waiting <> OLD.waiting OR (NEW.dead IS NULL) <> (OLD.dead IS NULL));
      ELSE
        UPDATE backlog SET waiting = waiting - OLD.waiting::int, dead = dead - (OLD.dead IS NOT NULL)::int
        WHERE receiver = OLD.receiver AND (OLD.waiting OR OLD.dead IS NOT NULL);
      END IF;
      RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER notification_changed AFTER INSERT OR DELETE OR UPDATE OF waiting, dead ON notifications
    FOR EACH ROW EXECUTE FUNCTION count_backlog()
    """,
)


def upgrade() -> None:
    op.create_table(
        "backlog",
        sa.Column("receiver", sa.Text, primary_key=True),
        sa.Column("waiting", sa.Integer, nullable=False),
        sa.Column("dead", sa.Integer, nullable=False),
    )
    op.execute(COUNT)
    for statement in POSTGRESQL if op.get_bind().dialect.name == "postgresql" else SQLITE:
        op.execute(statement)
    # Reports come after alerts: they are looked for behind all of these.
    sqlite, postgresql = sa.text("waiting = 1 AND wanted = 'report'"), sa.text("waiting AND wanted = 'report'")
    op.create_index("waiting_reports", "notifications", ["receiver"], sqlite_where=sqlite, postgresql_where=postgresql)
