'use strict'
// What the workers here do with a request: payload.action says it, anything else is echoed.
// wire: {raw(text), status(code, text, headers) (HTTP only), cut(text), close()} past the library's own reply.

let unanswered = 0 // requests that this process has got and never answers

function answer (payload, handler, rid, wire, cert) {
  const ask = payload && typeof payload === 'object' ? payload : {}
  switch (ask.action) {
    case 'error': return handler.reply(new Error(ask.error || 'ERR_MY_APP'), ask.partial)
    case 'bare-error': return handler.reply('ERR_LOST') // a text as error is lost: null is sent
    case 'slow': return setTimeout(() => handler.reply(null, payload), ask.ms)
    case 'big': return handler.reply(null, 'x'.repeat(ask.size))
    case 'pid': return handler.reply(null, process.pid)
    case 'certificate': return handler.reply(null, (cert && cert.fingerprint256) || null)
    case 'die': return process.exit(1)
    case 'no-reply':
      unanswered += 1
      return
    case 'unanswered': return handler.reply(null, unanswered)
    case 'twice':
      handler.reply(null, 1)
      return handler.reply(null, 2)
    case 'not-json': return wire.raw('this is no JSON')
    case 'empty': return wire.raw('')
    case 'null': return wire.raw('null')
    case 'not-array': return wire.raw('{"a":1}')
    case 'short': return wire.raw(JSON.stringify([rid]))
    case 'wrong-rid': return wire.raw(JSON.stringify(['another-rid', null, 1]))
    case 'object-error': return wire.raw(JSON.stringify([rid, { code: 7 }, null]))
    case 'raw': return wire.raw(ask.text)
    case 'status': return wire.status(ask.status, ask.text || JSON.stringify([rid, 'ERR_STATUS', null]), ask.headers)
    case 'cut': return wire.cut(JSON.stringify([rid, null, 'cut']))
    case 'close': return wire.close()
    default: return handler.reply(null, payload)
  }
}

module.exports = { answer }
