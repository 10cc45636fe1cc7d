"""HTTP pieces shared by the native API and the Bitfinex dialect."""
