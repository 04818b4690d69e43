// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"time"

	"github.com/holdfast-ha/holdfast/agent/trust"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// Keeper says whom the fleet trusts, and changes it. Secrets are in the answers of the
// calls that make them, and nowhere else.
type Keeper interface {
	// Bearer says whose token it is; ok is false for one that is not known or has ended.
	Bearer(t trust.Token, now time.Time) (c Caller, ok bool)

	Tokens(ctx context.Context) ([]v1.Token, error)
	CreateToken(ctx context.Context, who string, r v1.TokenRequest) (v1.Token, error)
	RevokeToken(ctx context.Context, who, id, reason string) error
	JoinTokens(ctx context.Context) ([]v1.JoinToken, error)
	CreateJoinToken(ctx context.Context, who string, r v1.JoinTokenRequest) (v1.JoinToken, error)
	RevokeJoinToken(ctx context.Context, who, id, reason string) error
	Authorities(ctx context.Context) ([]v1.Authority, error)
	CreateAuthority(ctx context.Context, who string, r v1.AuthorityRequest) (v1.Authority, error)
	RetireAuthority(ctx context.Context, who, id, reason string, force bool) error
	Certificates(ctx context.Context, host string) ([]v1.Certificate, error)
	Revoke(ctx context.Context, who string, r v1.RevokeRequest) ([]v1.Certificate, error)
	Audits(ctx context.Context, host string) ([]v1.Audit, error)
}

var reasonParam = Param{Name: "reason", Doc: "why, for the audit log"}

// trustRoutes are about who may do what.
var trustRoutes = []Route{
	{"GET", "/v1/auth/whoami", "", nil, v1.Whoami{}, nil, "Whom the API takes the caller for, and the role that comes with it.", whoami},
	{"GET", "/v1/auth/tokens", "trust:read", nil, v1.List[v1.Token]{}, pageParams, "List the bearer tokens of operators. Never the secrets.", kept(Keeper.Tokens, func(t v1.Token) string { return t.ID })},
	{"POST", "/v1/auth/tokens", "trust:write", v1.TokenRequest{}, v1.Token{}, nil, "Make a bearer token. It is in this answer alone; its SHA-256 is kept.", made(Keeper.CreateToken)},
	{"DELETE", "/v1/auth/tokens/{id}", "trust:write", nil, nil, []Param{reasonParam}, "End a bearer token.", ended(Keeper.RevokeToken)},
	{"GET", "/v1/join-tokens", "trust:read", nil, v1.List[v1.JoinToken]{}, pageParams, "List the join tokens of hosts. Never the secrets.", kept(Keeper.JoinTokens, func(t v1.JoinToken) string { return t.ID })},
	{"POST", "/v1/join-tokens", "trust:write", v1.JoinTokenRequest{}, v1.JoinToken{}, nil, "Make a token with which one host gets its first certificate, once. It is in this answer alone; its SHA-256 is kept.", made(Keeper.CreateJoinToken)},
	{"DELETE", "/v1/join-tokens/{id}", "trust:write", nil, nil, []Param{reasonParam}, "End a join token.", ended(Keeper.RevokeJoinToken)},
	{"GET", "/v1/authorities", "trust:read", nil, v1.List[v1.Authority]{}, pageParams, "List the fleet's own authorities, which stand for hosts.", kept(Keeper.Authorities, func(a v1.Authority) string { return a.ID })},
	{"POST", "/v1/authorities", "trust:write", v1.AuthorityRequest{}, v1.Authority{}, nil, "Make an authority. The first signs at once, a later one in a minute, when every worker knows it; those before it stay accepted.", made(Keeper.CreateAuthority)},
	{"DELETE", "/v1/authorities/{id}", "trust:write", nil, nil, []Param{reasonParam, {Name: "force", Doc: "`true`: although it signs, or certificates of it have not ended"}}, "Forget an authority: what it has signed is worth nothing from then on.", retireAuthority},
	{"GET", "/v1/certificates", "trust:read", nil, v1.List[v1.Certificate]{}, join([]Param{{Name: "host", Doc: "those of this host"}}, pageParams), "List the certificates that the fleet has issued and that have not ended, and all that are revoked.", listCertificates},
	{"POST", "/v1/certificates/revoke", "trust:write", v1.RevokeRequest{}, v1.List[v1.Certificate]{}, nil, "Make certificates worth nothing, by serial or all of a host: every worker refuses them and cuts links that are up.", revokeCertificates},
	{"GET", "/v1/audit", "trust:read", nil, v1.List[v1.Audit]{}, join([]Param{{Name: "host", Doc: "changes of this host"}}, pageParams), "List who has changed what, why, and what was there before; the newest first.", listAudits},
}

func whoami(c *call) error {
	who := callerOf(c.r)
	return c.reply(v1.Whoami{Name: orName(who.Name, "anonymous"), Role: who.Role, By: who.By, Token: who.Token, Expires: who.Expires})
}

// keeper is who knows; a handler without one knows of nothing.
func (c *call) keeper() (Keeper, error) {
	if c.o.Keeper == nil {
		return nil, v1.Problemf(v1.CodeNotFound, "this worker keeps no tokens and no authorities")
	}
	return c.o.Keeper, nil
}

func kept[T any](list func(Keeper, context.Context) ([]T, error), name func(T) string) func(*call) error {
	return func(c *call) error {
		k, err := c.keeper()
		if err != nil {
			return err
		}
		all, err := list(k, c.ctx())
		if err != nil {
			return err
		}
		return pageAsIs(c, all, name)
	}
}

func made[R, T any](create func(Keeper, context.Context, string, R) (T, error)) func(*call) error {
	return func(c *call) error {
		k, err := c.keeper()
		if err != nil {
			return err
		}
		var r R
		if err := c.body(&r); err != nil {
			return err
		}
		x, err := create(k, c.ctx(), c.who, r)
		if err != nil {
			return err
		}
		return c.reply(x)
	}
}

func ended(revoke func(k Keeper, ctx context.Context, who, id, reason string) error) func(*call) error {
	return func(c *call) error {
		k, err := c.keeper()
		if err == nil {
			err = revoke(k, c.ctx(), c.who, c.id(), c.query.Get("reason"))
		}
		if err != nil {
			return err
		}
		return c.done()
	}
}

func retireAuthority(c *call) error {
	force, err := c.flag("force")
	if err != nil {
		return err
	}
	return ended(func(k Keeper, ctx context.Context, who, id, reason string) error {
		return k.RetireAuthority(ctx, who, id, reason, force)
	})(c)
}

func listCertificates(c *call) error {
	return kept(func(k Keeper, ctx context.Context) ([]v1.Certificate, error) {
		return k.Certificates(ctx, c.query.Get("host"))
	}, func(x v1.Certificate) string { return x.Serial })(c)
}

func revokeCertificates(c *call) error {
	return made(func(k Keeper, ctx context.Context, who string, r v1.RevokeRequest) (v1.List[v1.Certificate], error) {
		all, err := k.Revoke(ctx, who, r)
		return v1.List[v1.Certificate]{Items: all}, err
	})(c)
}

func listAudits(c *call) error {
	return kept(func(k Keeper, ctx context.Context) ([]v1.Audit, error) {
		return k.Audits(ctx, c.query.Get("host"))
	}, func(a v1.Audit) string { return a.ID })(c)
}
