"""Order management: validation, storage, amendment, matching, fills and conditional orders."""
