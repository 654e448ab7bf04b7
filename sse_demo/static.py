"""Static files in production: hashed names, served by the application server itself."""

from servestatic.storage import CompressedManifestStaticFilesStorage


class HashedStaticFilesStorage(CompressedManifestStaticFilesStorage):  # type: ignore[misc]  # untyped
    """Hashes the names of JavaScript modules as well, and rewrites the imports between them."""

    support_js_module_import_aggregation = True
