// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net"
	"net/http"

	"github.com/holdfast-ha/holdfast/agent/trust"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// open are the paths for probes, which have no certificate; they tell nothing but ready
// or not.
var open = map[string]bool{"/healthz": true, "/readyz": true}

type identityKey struct{}

// admit lets operators and other workers in and notes who it is; to everybody else it
// says why not, and returns nil. What only a worker may say of a request is removed from
// that of an operator.
func admit(o *HandlerOptions, w http.ResponseWriter, r *http.Request) *http.Request {
	if o.Trust == nil || open[r.URL.Path] {
		return r
	}
	if r.TLS == nil {
		writeProblem(w, v1.Problemf(v1.CodeForbidden, "plaintext is not allowed here"))
		return nil
	}
	id, err := o.Trust.Client(r.TLS.PeerCertificates, trust.Operator, trust.Worker)
	if err != nil {
		o.Trust.Refused("operators", r.RemoteAddr, err)
		writeProblem(w, v1.Problemf(v1.CodeForbidden, "not admitted: %v", err).
			WithHint("cacert, cert and key of the context must be those of an operator of this fleet: holdfast pki show FILE"))
		return nil
	}
	r = r.WithContext(context.WithValue(r.Context(), identityKey{}, id))
	if id.Role != trust.Worker {
		r.Header.Del(forwardedHeader)
	}
	return r
}

// caller names who asks. With a certificate it is the identity in it; without one it is
// what the client says it is. The address it came from goes with it; a forwarding worker
// passes on what it noted.
func caller(r *http.Request) string {
	if who := r.Header.Get(forwardedHeader); who != "" {
		return clean(who)
	}
	name := clean(r.Header.Get(v1.ActorHeader))
	if id, ok := r.Context().Value(identityKey{}).(trust.Identity); ok {
		name = id.String()
	}
	if name == "" {
		name = "anonymous"
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	return name + "@" + host
}
