"""The herald: tells people and Grafana what happened, and Prometheus how bus and stores are."""
