# Tocsin's image with the shop in it: `docker build --tag tocsin .` in the checkout makes the one that it starts from.
# hadolint ignore=DL3006 # made on this machine; its only tag is `latest`
FROM tocsin
# What your own code needs. The image has no pip in its virtual environment; Python's own installs into it.
# USER root
# RUN /usr/local/bin/pip --python /opt/venv/bin/python install --no-cache-dir 'psycopg[binary]'
# USER 10001:10001
COPY --chmod=755 shop /app/shop
ENV TOCSIN_BLUEPRINTS=shop:blueprint \
    SHOP_DATABASE=/data/shop.db
