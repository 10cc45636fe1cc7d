'use strict'
// A bot written with ccxt for JavaScript, requests and streams (ccxt.pro), every checksum of the book verified.
// Settings: {api, ws, key, secret, symbol}. Commands, one output line each, {id, error, data}:
//   {id, trade: {price, step, orders}}   places, amends and cancels orders, and takes
//   {id, rest: true}                     one call of each request that a spot exchange has
//   {id, end: true}                      closes; answered with what the streams gave, counted

const ccxt = require('ccxt')
const { run, say } = require('./lines')

const counts = { book: 0, ticker: 0, trades: 0, candles: 0, orders: 0, myTrades: 0, balance: 0, checksums: 0, errors: [] }
const known = new Set() // ids of orders; updates that come together are one
const closed = new Set()
const bought = new Map()
let exchange, settings
let ended = false

function connect () {
  const made = new ccxt.pro.bitfinex({ apiKey: settings.key, secret: settings.secret, enableRateLimit: false })
  const { api, ws } = settings
  made.urls.api = { v1: api, public: api, private: api, ws: { public: ws, private: ws } }
  made.options.watchOrderBook = { prec: settings.precision, checksum: true }
  const handle = made.handleChecksum
  made.handleChecksum = function (...message) {
    counts.checksums++
    return handle.apply(this, message)
  }
  return made
}

// What comes while no call waits for it is lost with this client, so a call always waits.
async function follow (name, call, take = () => {}) {
  while (!ended) {
    try {
      const found = await call()
      counts[name]++
      take(found)
    } catch (error) {
      if (ended) return
      counts.errors.push(`${name}: ${error}`)
      return
    }
  }
}

async function open () {
  const { symbol } = settings
  exchange = connect()
  await exchange.loadHttpProxyAgent() // for ws://, which ccxt refuses otherwise
  await exchange.loadMarkets()
  await exchange.authenticate()
  follow('orders', () => exchange.watchOrders(symbol), (found) => {
    for (const order of found) {
      known.add(order.id)
      if (order.status === 'closed') closed.add(order.id)
    }
  })
  follow('myTrades', () => exchange.watchMyTrades(symbol), (found) => {
    for (const trade of found) if (trade.side === 'buy') bought.set(trade.id, trade.amount)
  })
  follow('balance', () => exchange.watchBalance())
  follow('ticker', () => exchange.watchTicker(symbol))
  follow('trades', () => exchange.watchTrades(symbol))
  follow('candles', () => exchange.watchOHLCV(symbol, '1m'))
  await exchange.watchOrderBook(symbol, 25)
  follow('book', () => exchange.watchOrderBook(symbol, 25))
  say({ ready: true })
}

async function trade ({ price, step, orders }) {
  const { symbol } = settings
  let amended = 0
  let cancelled = 0
  for (let index = 0; index < orders; index++) {
    const bid = await exchange.createOrder(symbol, 'limit', 'buy', 0.01 + index / 1e8, price - index * step)
    if (index % 3 === 0) {
      await exchange.editOrder(bid.id, symbol, 'limit', 'buy', undefined, price - index * step - step / 2)
      amended++
    }
    if (index % 2 === 0) {
      await exchange.cancelOrder(bid.id, symbol)
      cancelled++
    }
  }
  const taken = await exchange.createOrder(symbol, 'market', 'buy', 0.015)
  const filled = await exchange.createOrder(symbol, 'limit', 'buy', 0.01, price * 1.2)
  return { placed: orders + 2, amended, cancelled, taken: taken.id, filled: filled.id, status: filled.status }
}

async function everyRead ({ order }) {
  const { symbol } = settings
  const calls = {
    fetchStatus: [], fetchMarkets: [], fetchCurrencies: [], fetchTicker: [symbol], fetchTickers: [[symbol]],
    fetchOrderBook: [symbol, 25], fetchTrades: [symbol], fetchOHLCV: [symbol, '1m'], fetchBalance: [], fetchTradingFees: [],
    fetchOpenOrders: [symbol], fetchClosedOrders: [symbol], fetchOrder: [order, symbol], fetchMyTrades: [symbol],
    fetchOrderTrades: [order, symbol], fetchLedger: ['USD']
  }
  const done = {}
  for (const [name, given] of Object.entries(calls)) {
    const found = await exchange[name](...given).catch((error) => { throw new Error(`${name}: ${error}`) })
    done[name] = Array.isArray(found) ? found.length : Object.keys(found).length
  }
  return done
}

async function end () {
  const book = exchange.orderbooks[settings.symbol]
  const fresh = await exchange.fetchOrderBook(settings.symbol, 25, { precision: settings.precision })
  const same = ['bids', 'asks'].every((side) =>
    JSON.stringify(book[side].slice(0, 25).map((row) => row.slice(0, 2))) ===
    JSON.stringify(fresh[side].slice(0, 25).map((row) => row.slice(0, 2))))
  const amount = [...bought.values()].reduce((sum, each) => sum + each, 0)
  ended = true
  await exchange.close()
  return { ...counts, same, known: known.size, closed: [...closed], bought: amount }
}

run((given) => {
  settings = given
  open().catch((error) => say({ error: String(error) }))
}, async ({ id, trade: wanted, rest: asked, end: last }) => {
  try {
    let data
    if (wanted) data = await trade(wanted)
    if (asked) data = await everyRead(asked)
    if (last) data = await end()
    say({ id, error: null, data })
  } catch (error) {
    say({ id, error: String(error) })
  }
})
