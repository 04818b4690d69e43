// SPDX-License-Identifier: Apache-2.0

package redfish

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/sim/bmc"
)

const sessionsURI = "/redfish/v1/SessionService/Sessions"

// session is one log-in that holds a slot.
type session struct {
	id    uint32
	token string
	user  bmc.User
	seen  time.Time
}

func (s *session) uri() string { return fmt.Sprint(sessionsURI, "/", s.id) }

// strike is a user's run of failed log-ins.
type strike struct {
	n     int
	until time.Time
}

// caller is who asks: a session's user or, with session 0, one of basic authentication.
type caller struct {
	user    bmc.User
	session *session
}

func (c caller) id() uint32 {
	if c.session == nil {
		return 0
	}
	return c.session.id
}

func (s *Server) expire(now time.Time) {
	s.sessions = slices.DeleteFunc(s.sessions, func(o *session) bool { return now.Sub(o.seen) > s.cfg.SessionTimeout })
}

// authenticate finds the caller; work is held.
func (s *Server) authenticate(r *http.Request, f Faults, now time.Time) (caller, bool) {
	if f.Unauthorized {
		return caller{}, false
	}
	if token := r.Header.Get("X-Auth-Token"); token != "" {
		for _, o := range s.sessions {
			if o.token == token {
				o.seen = now
				return caller{o.user, o}, true
			}
		}
		return caller{}, false
	}
	name, password, ok := r.BasicAuth()
	if !ok {
		return caller{}, false
	}
	u, ok := s.login(name, password, f, now)
	return caller{user: u}, ok
}

// login checks a password, under the rule of lock-out.
func (s *Server) login(name, password string, f Faults, now time.Time) (bmc.User, bool) {
	k := s.failures[name]
	locked := now.Before(k.until)
	s.mu.Lock()
	i := slices.IndexFunc(s.users, func(u bmc.User) bool { return u.Name == name && u.Password == password })
	var u bmc.User
	if i >= 0 {
		u = s.users[i]
	}
	s.mu.Unlock()
	if i >= 0 && !locked && !f.Unauthorized {
		delete(s.failures, name)
		return u, true
	}
	k.n++
	if f.LockoutAfter > 0 && (locked || k.n >= f.LockoutAfter) {
		k.until = now.Add(f.LockoutFor)
	}
	s.failures[name] = k
	return bmc.User{}, false
}

// postSession opens a session.
func (s *Server) postSession(body []byte, f Faults, now time.Time) answer {
	var in struct{ UserName, Password string }
	if err := json.Unmarshal(body, &in); err != nil {
		return failure(http.StatusBadRequest, "MalformedJSON", "The request body is malformed JSON.")
	}
	u, ok := s.login(in.UserName, in.Password, f, now)
	switch {
	case !ok:
		return unauthorized()
	case f.NoSlots || len(s.sessions) >= s.cfg.Slots:
		return failure(http.StatusServiceUnavailable, "SessionLimitExceeded", "The session establishment failed due to the number of simultaneous sessions exceeding the limit of the implementation.")
	}
	s.opened++
	sum := sha256.Sum256(fmt.Append(nil, "token ", s.cfg.Seed, " ", s.opened))
	o := &session{id: uint32(s.opened), token: hex.EncodeToString(sum[:16]), user: u, seen: now}
	s.sessions = append(s.sessions, o)
	return answer{status: http.StatusCreated, header: map[string]string{"X-Auth-Token": o.token, "Location": o.uri()}, body: sessionBody(o)}
}

func sessionBody(o *session) map[string]any {
	return resource(o.uri(), "#Session.v1_3_0.Session", fmt.Sprint(o.id), "User Session", map[string]any{"UserName": o.user.Name})
}

// sessionAnswer reads or deletes a session. Others' may be ended by administrators only.
func (s *Server) sessionAnswer(method, id string, c caller) answer {
	i := slices.IndexFunc(s.sessions, func(o *session) bool { return fmt.Sprint(o.id) == id })
	switch {
	case i < 0:
		return notFound()
	case method == http.MethodGet:
		return answer{status: http.StatusOK, body: sessionBody(s.sessions[i])}
	case method != http.MethodDelete:
		return notAllowed()
	case s.sessions[i] != c.session && c.user.Privilege < bmc.Administrator:
		return forbidden()
	}
	s.sessions = slices.Delete(s.sessions, i, i+1)
	return answer{status: http.StatusNoContent}
}
