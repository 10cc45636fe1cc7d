'use strict'
// A real HTTP client. Settings: {grape, secure?: {key, cert, ca}, link?: {...}}. Commands in rpc_client.js.

const { PeerRPCClient } = require('grenache-nodejs-http')
const Transport = require('grenache-nodejs-http/lib/TransportRPCClient')
const { client } = require('./rpc_client')

client(PeerRPCClient, Transport)
