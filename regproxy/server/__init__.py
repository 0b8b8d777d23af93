"""Client connections: requests, their answers, tunnels, the set-up pages and the admin port."""
