'use strict'
// A real HTTP worker of streams. Settings: {grape, service, secure?}. Says {"ready": true, "port"}. The header _a says
// what is done with a stream: "shout" sends each part back in upper case, "count" replies with the number of bytes
// and what came with the stream, "fail" replies with an error, "cut" ends the connection after a part.

const { Transform } = require('stream')
const { PeerRPCServer } = require('grenache-nodejs-http')
const Link = require('grenache-nodejs-link')
const { announce, run, say, secure } = require('./lines')

run((settings) => {
  const link = new Link({ grape: settings.grape })
  link.start()
  const peer = new PeerRPCServer(link, {
    disableBuffered: true,
    secure: secure(settings.secure, { requestCert: true, rejectUnauthorized: true })
  })
  peer.init()
  const service = peer.transport('server')
  service.listen(0)
  service.on('stream', (req, res, meta, handler) => {
    const [rid, key] = meta.infoHeaders
    if (meta.action === 'shout') {
      const upper = new Transform({
        transform (part, encoding, done) { done(null, part.toString('latin1').toUpperCase()) }
      })
      req.pipe(upper).pipe(res)
    } else if (meta.action === 'count') {
      let bytes = 0
      req.on('data', (part) => { bytes += part.length })
      req.on('end', () => handler.reply(rid, null, { bytes, key, args: meta.args, isStream: meta.isStream }))
    } else if (meta.action === 'fail') {
      req.resume()
      req.on('end', () => handler.reply(rid, new Error('ERR_MY_APP'), { partial: 1 }))
    } else if (meta.action === 'cut') {
      res.write('begin')
      setTimeout(() => res.destroy(), 50)
    }
  })
  service.socket.on('listening', () => {
    const port = service.socket.address().port
    announce(link, settings.service, port, 1000, () => say({ ready: true, port }))
  })
}, () => {})
