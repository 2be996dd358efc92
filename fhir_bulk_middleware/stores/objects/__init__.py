"""The output store in object storage: S3, Google Cloud Storage, Azure, a local folder (extra `objectstore`)."""

try:
    from fhir_bulk_middleware.stores.objects.outputs import ObjectOutputStore
except ModuleNotFoundError as error:
    raise ImportError("ObjectOutputStore needs obstore: pip install 'fhir-bulk-middleware[objectstore]'") from error

__all__ = ["ObjectOutputStore"]
