'use strict'
// A real HTTP worker. Settings: {grape, service, port?, secure?: {key, cert, ca}, requestCert?,
// rejectUnauthorized?, interval?}. Without grape it only listens. Says {"ready": true, "port"}, then
// {"request": {key, payload, rid, fingerprint}} for each request if settings.log.
// Commands: {"stop": true} stops listening, {"die": true} ends the process at once.

const { PeerRPCServer } = require('grenache-nodejs-http')
const Link = require('grenache-nodejs-link')
const { answer } = require('./actions')
const { announce, run, say, secure } = require('./lines')

let service

run((settings) => {
  const link = new Link({ grape: settings.grape || 'http://127.0.0.1:1' })
  link.start()
  const peer = new PeerRPCServer(link, {
    secure: secure(settings.secure, {
      requestCert: Boolean(settings.requestCert),
      rejectUnauthorized: Boolean(settings.rejectUnauthorized)
    })
  })
  peer.init()
  service = peer.transport('server')
  service.listen(settings.port || 0)
  const replies = new WeakMap()
  service.on('stream', (req, rep, meta) => replies.set(meta, rep))
  service.on('request-error', () => say({ requestError: true }))
  service.on('request', (rid, key, payload, handler, cert, meta) => {
    if (settings.log) say({ request: { key, payload, rid, fingerprint: cert && cert.fingerprint256 } })
    const rep = replies.get(meta)
    answer(payload, handler, rid, {
      raw: (text) => rep.end(text),
      status: (code, text, headers) => {
        rep.writeHead(code, headers || {})
        rep.end(text)
      },
      cut: (text) => {
        rep.writeHead(200, { 'Content-Length': text.length + 10 })
        rep.write(text, () => rep.destroy())
      },
      close: () => rep.destroy()
    }, cert)
  })
  service.socket.on('listening', () => {
    const port = service.socket.address().port
    const ready = () => say({ ready: true, port })
    if (!settings.grape) return ready()
    announce(link, settings.service, port, settings.interval || 1000, ready)
  })
}, (command) => {
  if (command.stop) {
    service.stop()
    say({ stopped: true })
  }
  if (command.die) process.exit(1)
})
