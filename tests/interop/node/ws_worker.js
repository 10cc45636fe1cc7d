'use strict'
// A real WebSocket worker. Settings, output and commands as of http_worker.js, except that a secure one always asks
// for a certificate. {"stop": true} closes the server and its connections; {"sockets": true} says how many
// connections there are.

const { PeerRPCServer } = require('grenache-nodejs-ws')
const Link = require('grenache-nodejs-link')
const { answer } = require('./actions')
const { announce, run, say, secure } = require('./lines')

let service

run((settings) => {
  const link = new Link({ grape: settings.grape || 'http://127.0.0.1:1' })
  link.start()
  const peer = new PeerRPCServer(link, {
    secure: secure(settings.secure, {
      rejectUnauthorized: Boolean(settings.rejectUnauthorized),
      verifyClient: () => true
    })
  })
  peer.init()
  service = peer.transport('server')
  service.listen(settings.port || 0)
  const send = service.sendReply.bind(service)
  // A function as result writes to the socket past the library.
  service.sendReply = (socket, rid, err, res) => typeof res === 'function' ? res(socket) : send(socket, rid, err, res)
  service.on('request-error', () => say({ requestError: true }))
  service.on('request', (rid, key, payload, handler, cert) => {
    if (settings.log) say({ request: { key, payload, rid, fingerprint: cert && cert.fingerprint256 } })
    const raw = (text) => handler.reply(null, (socket) => socket.send(text))
    answer(payload, handler, rid, {
      raw,
      status: (code, text) => raw(text),
      cut: () => handler.reply(null, (socket) => socket.terminate()),
      close: () => handler.reply(null, (socket) => socket.close())
    }, cert)
  })
  const announced = () => {
    const port = service.socket.address().port
    const ready = () => say({ ready: true, port })
    if (!settings.grape) return ready()
    announce(link, settings.service, port, settings.interval || 1000, ready)
  }
  if (settings.secure) setTimeout(announced, 100) // its http server says nothing when it listens
  else service.socket.on('listening', announced)
}, (command) => {
  if (command.sockets) say({ sockets: service.socket.clients.size })
  if (command.stop) {
    for (const socket of service.socket.clients) socket.terminate()
    service.stop()
    say({ stopped: true })
  }
  if (command.die) process.exit(1)
})
