"""What operators deploy beside it: rules, alerts, dashboards."""
