'use strict'
// A bot written with Bitfinex's own libraries, WebSocket with `seqAudit` and managed books, and REST.
// Settings: {api, ws, key, secret, symbol}. Commands, one output line each, {id, error, data}:
//   {id, trade: {price, step, orders}}   places, amends and cancels orders by WebSocket, counts what it hears
//   {id, rest: true}                     one call of each REST method that a spot exchange has
//   {id, end: true}                      closes; answered with the counts

const { WSv2 } = require('bitfinex-api-node')
const { RESTv2 } = require('bfx-api-node-rest')
const { Order } = require('bfx-api-node-models')
const { run, say } = require('./lines')

const counts = { on: 0, ou: 0, oc: 0, te: 0, tu: 0, messages: 0, checksums: 0, errors: [] }
let ws, rest, settings

function open () {
  ws = new WSv2({
    url: settings.ws, apiKey: settings.key, apiSecret: settings.secret, transform: true, seqAudit: true, manageOrderBooks: true
  })
  rest = new RESTv2({ url: settings.api, apiKey: settings.key, apiSecret: settings.secret, transform: true })
  ws.on('error', (error) => counts.errors.push(String(error.message || error)))
  ws.on('message', () => { counts.messages++ })
  ws.once('open', () => ws.auth())
  ws.once('auth', async () => {
    ws.enableFlag(WSv2.flags.CHECKSUM)
    ws.onOrderNew({}, () => { counts.on++ })
    ws.onOrderUpdate({}, () => { counts.ou++ })
    ws.onOrderClose({}, () => { counts.oc++ })
    ws.onAccountTradeEntry({}, () => { counts.te++ })
    ws.onAccountTradeUpdate({}, () => { counts.tu++ })
    ws.onOrderBookChecksum({ symbol: settings.symbol }, () => { counts.checksums++ })
    await ws.subscribeOrderBook(settings.symbol, 'P0', '25')
    await ws.subscribeTrades(settings.symbol)
    await ws.subscribeTicker(settings.symbol)
    await ws.subscribeCandles(`trade:1m:${settings.symbol}`)
    say({ ready: true })
  })
  ws.open()
}

function order (type, amount, price) {
  return new Order({ cid: Math.floor(Math.random() * 2 ** 40), symbol: settings.symbol, type, amount, price }, ws)
}

async function trade ({ price, step, orders }) {
  const ids = []
  for (let index = 0; index < orders; index++) {
    const bid = order('EXCHANGE LIMIT', 0.01 + index / 1e8, price - index * step)
    await bid.submit()
    ids.push(bid.id)
    if (index % 3 === 0) await ws.updateOrder({ id: bid.id, price: String(price - index * step - step / 2) })
    if (index % 2 === 0) await ws.cancelOrder(bid.id)
  }
  const taken = order('EXCHANGE MARKET', 0.015)
  await taken.submit()
  const filled = order('EXCHANGE LIMIT', 0.01, price * 1.2)
  await filled.submit()
  return { ids, taken: taken.id, filled: filled.id, status: filled.status }
}

async function everyRead () {
  const symbol = settings.symbol
  const done = {}
  const calls = {
    status: () => rest.status(),
    conf: () => rest.conf({ keys: ['pub:list:pair:exchange', 'pub:map:currency:wfx'] }),
    currencies: () => rest.currencies(),
    symbols: () => rest.symbols(),
    inactiveSymbols: () => rest.inactiveSymbols(),
    futures: () => rest.futures(),
    symbolDetails: () => rest.symbolDetails(),
    ticker: () => rest.ticker({ symbol }),
    tickers: () => rest.tickers({ symbols: [symbol] }),
    tickersHistory: () => rest.tickersHistory({ symbols: [symbol] }),
    trades: () => rest.trades({ symbol, limit: 5 }),
    candles: () => rest.candles({ timeframe: '1m', symbol, section: 'hist', query: {} }),
    orderBook: () => rest.orderBook({ symbol, prec: 'P0' }),
    marketAveragePrice: () => rest.marketAveragePrice({ symbol, amount: '0.001' }),
    exchangeRate: () => rest.exchangeRate({ ccy1: 'BTC', ccy2: 'USD' }),
    wallets: () => rest.wallets(),
    activeOrders: () => rest.activeOrders(),
    orderHistory: () => rest.orderHistory(),
    accountTrades: () => rest.accountTrades({ symbol }),
    ledgers: () => rest.ledgers({ filters: { ccy: 'USD' } }),
    positions: () => rest.positions(),
    userInfo: () => rest.userInfo(),
    accountSummary: () => rest.accountSummary(),
    keyPermissions: () => rest.keyPermissions(),
    calcAvailableBalance: () => rest.calcAvailableBalance({ symbol, dir: '1', rate: '30000', type: 'EXCHANGE' })
  }
  for (const [name, call] of Object.entries(calls)) {
    const found = await call().catch((error) => {
      throw new Error(`${name}: ${error.response || error.message}`)
    })
    done[name] = Array.isArray(found) ? found.length : typeof found
  }
  const [authToken] = await rest.generateToken({ scope: 'api', ttl: 60, caps: ['o'], writePermission: true })
  const byToken = new RESTv2({ url: settings.api, authToken, transform: true })
  const bid = order('EXCHANGE LIMIT', 0.01, 20000)
  const placed = await byToken.submitOrder({ order: bid })
  const id = placed.id
  const known = await byToken.activeOrdersWithIds({ ids: [id] })
  await byToken.cancelOrder({ id })
  done.byToken = known.length
  await rest.invalidateAuthToken({ authToken })
  return done
}

run((given) => {
  settings = given
  open()
}, async ({ id, trade: wanted, rest: asked, end }) => {
  try {
    let data
    if (wanted) data = await trade(wanted)
    if (asked) data = await everyRead()
    if (end) {
      data = counts
      await ws.close()
    }
    say({ id, error: null, data })
  } catch (error) {
    say({ id, error: String((error && (error.response || error.message)) || JSON.stringify(error)) })
  }
})
