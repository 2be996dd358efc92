"""What a mount says about itself: CapabilityStatement, OperationDefinitions, SMART configuration, OpenAPI document.

All of it is derived from the route table, the dialect and the storage adapter; nothing is listed by hand.
"""
