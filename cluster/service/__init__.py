"""The service: jobs of several tenants, their logs and fronts, over gRPC."""
