// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// problemOf makes a Problem of any error. Those that the backend did not word for
// operators are internal.
func problemOf(err error) *v1.Problem {
	var p *v1.Problem
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &p):
		q := p.Complete()
		q.Detail = err.Error() // with what callers put around it
		return q
	case errors.As(err, &tooLarge):
		return v1.Problemf(v1.CodeTooLarge, "read request body: too large, allowed are 1 MiB")
	case errors.Is(err, context.DeadlineExceeded):
		return v1.Problemf(v1.CodeUnknownOutcome, "this worker could not answer in time: %v", err)
	}
	return v1.Problemf(v1.CodeInternal, "%v", err)
}

// retryAfter is how long callers should wait, in seconds.
var retryAfter = map[string]string{v1.CodeRateLimited: "1", v1.CodeUnavailable: "1"}

// conditional says of a conflict that it was the request's own condition which did not hold.
func (c *call) conditional(p *v1.Problem) *v1.Problem {
	if p.Code != v1.CodeConflict || c.want < 0 || p.Want != c.want || p.Have == p.Want {
		return p
	}
	q := *p
	q.Code = v1.CodePrecondition
	return q.Complete()
}

func writeProblem(w http.ResponseWriter, p *v1.Problem) {
	if after, ok := retryAfter[p.Code]; ok {
		w.Header().Set("Retry-After", after)
	}
	if p.Code == v1.CodePrecondition && p.Have > 0 {
		w.Header().Set("ETag", etag(p.Have))
	}
	writeJSON(w, p.Status, "application/problem+json", p)
}

func writeJSON(w http.ResponseWriter, status int, kind string, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, kind = http.StatusInternalServerError, "application/problem+json"
		b = []byte(`{"type":"urn:holdfast:problem:internal","title":"Internal error","status":500,"code":"internal","detail":"encode answer"}`)
	}
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // the caller has gone: nobody to tell
}
