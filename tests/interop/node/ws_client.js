'use strict'
// A real WebSocket client. Settings: {grape, secure?: {key, cert, ca}, link?: {...}}. Commands in rpc_client.js.

const { PeerRPCClient } = require('grenache-nodejs-ws')
const Transport = require('grenache-nodejs-ws/lib/TransportRPCClient')
const { client } = require('./rpc_client')

client(PeerRPCClient, Transport)
