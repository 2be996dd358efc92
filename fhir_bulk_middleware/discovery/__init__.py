"""Descriptions of a mount: CapabilityStatement, OperationDefinitions, SMART configuration, OpenAPI document.

They are derived from the route table, the dialect and the storage adapter.
"""
