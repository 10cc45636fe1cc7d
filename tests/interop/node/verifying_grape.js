'use strict'
// A real Grape that stores signed values, which those of the command line refuse. Settings: {dht_port,
// api_port, bootstrap: ["ip:port"]}. Prints {ready: true}; takes no commands.

const crypto = require('crypto')
const Grape = require('grenache-grape').Grape
const { run, say } = require('./lines')

const SPKI = Buffer.from('302a300506032b6570032100', 'hex') // what precedes an Ed25519 key (RFC 8410)

function verify (signature, message, publicKey) {
  const key = crypto.createPublicKey({ key: Buffer.concat([SPKI, publicKey]), format: 'der', type: 'spki' })
  return crypto.verify(null, message, key, signature)
}

run((settings) => {
  const grape = new Grape({
    dht_port: settings.dht_port,
    dht_bootstrap: settings.bootstrap,
    api_port: settings.api_port,
    verify
  })
  grape.start((err) => {
    if (err) throw err
    say({ ready: true })
  })
}, () => {})
