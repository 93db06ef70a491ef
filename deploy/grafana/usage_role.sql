-- The role by which Grafana reads usage, and nothing else: no names of sessions, no hashes, no chats.
-- psql "$DATABASE_URL" -v password="$GATEHOUSE_GRAFANA_PASSWORD" -f usage_role.sql
CREATE ROLE gatehouse_grafana LOGIN PASSWORD :'password' CONNECTION LIMIT 5;
ALTER ROLE gatehouse_grafana SET default_transaction_read_only = on;
ALTER ROLE gatehouse_grafana SET statement_timeout = '10s';
GRANT USAGE ON SCHEMA public TO gatehouse_grafana;
GRANT SELECT ON usage TO gatehouse_grafana;
