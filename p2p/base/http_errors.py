"""Server connection of aiohttp with one place for the responses to requests that cannot be served."""

from __future__ import annotations

from abc import abstractmethod

from aiohttp import web


class ErrorAnsweringConnection(web.RequestHandler):
    """Answer malformed requests and unhandled failures with `error_response`, then close the connection."""

    __slots__ = ()

    @abstractmethod
    def error_response(
        self, request: web.BaseRequest, status: int, error: BaseException
    ) -> web.Response:
        """Return the response. Below 500 the request is at fault, otherwise this program."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer is not None and request.writer.output_size > 0:
            raise ConnectionError("the answer has begun, an error cannot follow")
        response = self.error_response(request, status, exc or RuntimeError(message))
        response.force_close()
        return response
