"""Alembic's environment: runs on the connection `Database` hands over, never on a URL from a file."""

from alembic import context

from coin_hts_pipelines.catalog.models import SCHEMA, Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table_schema=SCHEMA,
    include_schemas=True,
    include_name=lambda name, kind, _: kind != "schema" or name == SCHEMA,
    compare_type=True,
)

with context.begin_transaction():
    context.run_migrations()
