'use strict'
// A real HTTP client of streams. Settings: {grape, secure?}. Command {id, service, text, times, headers}: sends `text`
// `times` times, and says {id, error, bytes, sha1, text} of what comes back (its text if it is short).

const crypto = require('crypto')
const { Readable } = require('stream')
const { PeerRPCClient } = require('grenache-nodejs-http')
const Link = require('grenache-nodejs-link')
const { run, say, secure } = require('./lines')

let peer

run((settings) => {
  const link = new Link({ grape: settings.grape })
  link.start()
  peer = new PeerRPCClient(link, { secure: secure(settings.secure, { rejectUnauthorized: true }) })
  peer.init()
  say({ ready: true })
}, ({ id, service, text, times = 1, headers }) => {
  const stream = peer.stream(service, { timeout: 10000, headers })
  const hash = crypto.createHash('sha1')
  let bytes = 0
  let short = ''
  const done = (error) => say({ id, error, bytes, sha1: hash.digest('hex'), text: short.slice(0, 1000) })
  stream.on('data', (part) => {
    bytes += part.length
    hash.update(part)
    if (short.length < 1000) short += part.toString()
  })
  stream.on('error', (err) => done(err.message))
  stream.on('end', () => done(null))
  Readable.from(function * () {
    for (let n = 0; n < times; n++) yield Buffer.from(text)
  }()).pipe(stream)
})
