"""HTTP for all routes: route table, authentication, headers, parameters, limits, responses."""
